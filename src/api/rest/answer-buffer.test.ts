import { describe, expect, it } from 'vitest';
import { MIB } from '../../base/units.ts';
import { type AnswerBuffer, AnswerMemory } from './answer-buffer.ts';

const chunk = Buffer.alloc(MIB, 'a');

/** Appends until nothing is kept. @returns number of kept bytes */
function fill(buffer: AnswerBuffer): number {
  let bytes = 0;
  for (;;) {
    const kept = buffer.append(chunk);
    bytes += kept;
    if (kept < chunk.length) return bytes;
  }
}

describe('AnswerMemory', () => {
  it('collects what was appended, byte by byte', () => {
    const buffer = new AnswerMemory().buffer('a', 100_000);
    const text = `${'x'.repeat(9999)}é`;
    for (const byte of Buffer.from(text)) buffer.append(Buffer.from([byte]));
    expect(buffer.content().toString()).toBe(text);
  });

  it('keeps exactly the limit of the answer', () => {
    expect(fill(new AnswerMemory().buffer('a', 5 * MIB + 3))).toBe(5 * MIB + 3);
  });

  it('bounds the sum of many answers, and gives each sandbox some', () => {
    const memory = new AnswerMemory();
    let bytes = 0;
    for (let sandbox = 0; sandbox < 40; sandbox += 1) {
      let own = 0;
      for (let answer = 0; answer < 32; answer += 1) own += fill(memory.buffer(`${sandbox}`, 16 * MIB));
      expect(own).toBeGreaterThanOrEqual(MIB);
      bytes += own;
    }
    expect(bytes).toBeLessThanOrEqual(256 * MIB);
  });

  it('reuses released memory', () => {
    const memory = new AnswerMemory();
    for (let round = 0; round < 20; round += 1) {
      const buffer = memory.buffer('a', 16 * MIB);
      expect(fill(buffer)).toBe(16 * MIB);
      buffer.release();
      buffer.release();
    }
  });

  it('a buffer released before its first byte takes no memory', () => {
    const memory = new AnswerMemory();
    for (let round = 0; round < 20; round += 1) {
      const buffer = memory.buffer('a', 16 * MIB);
      buffer.release();
      expect(buffer.append(chunk)).toBe(0);
    }
    expect(fill(memory.buffer('a', 16 * MIB))).toBe(16 * MIB);
  });
});
