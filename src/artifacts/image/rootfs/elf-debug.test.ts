import { describe, expect, it } from 'vitest';
import { withoutSections } from './elf-debug.ts';

/** One segment of 8 bytes, then 100 bytes of sections. */
function library(): Buffer {
  const bytes = Buffer.alloc(64 + 56 + 8 + 100, 0xdd);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1]);
  bytes.writeBigUInt64LE(64n, 32);
  bytes.writeBigUInt64LE(128n, 40);
  bytes.writeUInt16LE(1, 56);
  bytes.writeBigUInt64LE(120n, 64 + 8);
  bytes.writeBigUInt64LE(8n, 64 + 32);
  return bytes;
}

describe('withoutSections', () => {
  it('keeps the bytes of all segments, and no section', () => {
    const kept = Buffer.from(withoutSections(library()));
    expect(kept.length).toBe(128);
    expect(kept.readBigUInt64LE(40)).toBe(0n);
    expect([58, 60, 62].map((at) => kept.readUInt16LE(at))).toEqual([0, 0, 0]);
    expect(kept.subarray(64)).toEqual(library().subarray(64, 128));
  });

  it.each([
    ['no ELF file', Buffer.from('#!/bin/sh')],
    ['a truncated one', library().subarray(0, 100)],
    ['one whose segment ends beyond the file', library().subarray(0, 125)],
  ])('leaves %s unchanged', (_, bytes) => {
    expect(withoutSections(bytes)).toBe(bytes);
  });
});
