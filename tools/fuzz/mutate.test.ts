import { describe, expect, it } from 'vitest';
import { randomFrom, runSeed } from '../../test/support/run-seed.ts';
import { changeJson } from './json-change.ts';
import { Mutator } from './mutate.ts';
import { note, resetProbe } from './probe.ts';

const MAX_BYTES = 50;

describe('Mutator', () => {
  it('inputs stay within the limit, and known inputs unchanged', () => {
    const mutator = new Mutator(randomFrom(runSeed()), ['word', 0xfe0d]);
    const known = Buffer.from('{"a":[1,"b"]} known');
    let input: Uint8Array = known;
    for (let turn = 0; turn < 20_000; turn += 1) {
      input = mutator.mutate(turn % 50 === 0 ? known : input, known, MAX_BYTES);
      expect(input.length).toBeLessThanOrEqual(MAX_BYTES);
    }
    expect(known.toString()).toBe('{"a":[1,"b"]} known');
  });

  it('the wanted value of a comparison replaces the seen one', () => {
    resetProbe();
    for (let turn = 0; turn < 32; turn += 1) {
      note(0, 'GET', 'OPTIONS');
      note(1, 0x0102, 0xbeef);
    }
    const mutator = new Mutator(randomFrom(runSeed()));
    const from = Buffer.from('GET \x01\x02');
    const made = Array.from({ length: 20_000 }, () => Buffer.from(mutator.mutate(from, from, 99)));
    expect(made.some((bytes) => bytes.equals(Buffer.from('OPTIONS \x01\x02')))).toBe(true);
    expect(made.some((bytes) => bytes.equals(Buffer.from('GET \xbe\xef', 'latin1')))).toBe(true);
  });
});

describe('changeJson', () => {
  it('an object in an input stays JSON, and the bytes around it stay unchanged', () => {
    const random = randomFrom(runSeed());
    const bytes = Buffer.from('data: {"a":{"b":["}\\""]},"é":1}\n');
    for (let turn = 0; turn < 2000; turn += 1) {
      const changed = Buffer.from(changeJson(bytes, random, ['w']) ?? []).toString();
      expect(changed).toMatch(/^data: .*\n$/s);
      expect(() => JSON.parse(changed.slice(6))).not.toThrow();
    }
  });

  it('returns undefined for an input without an object', () => {
    const random = randomFrom(runSeed());
    for (const text of ['', 'text', '{', '{"a"']) expect(changeJson(Buffer.from(text), random, [])).toBeUndefined();
  });
});
