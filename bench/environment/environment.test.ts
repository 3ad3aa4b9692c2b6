import { zstdCompressSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { type StepMark, stepTimes } from './build.ts';
import { readEnd } from './containers.ts';
import { sampleContent } from './sample-tree.ts';
import { isStatic } from './static-program.ts';

/** A 64-bit program with headers of these types. */
function elf(types: readonly number[]): Buffer {
  const bytes = Buffer.alloc(64 + 56 * types.length);
  bytes.write('\x7fELF\x02\x01', 'latin1');
  bytes.writeBigUInt64LE(64n, 32);
  bytes.writeUInt16LE(56, 54);
  bytes.writeUInt16LE(types.length, 56);
  for (const [index, type] of types.entries()) bytes.writeUInt32LE(type, 64 + 56 * index);
  return bytes;
}

describe('isStatic', () => {
  it('is true without a loader, false with one', () => {
    expect(isStatic(elf([1, 2]))).toBe(true);
    expect(isStatic(elf([1, 3]))).toBe(false);
  });

  it('is false for a script, and for a truncated program', () => {
    expect(isStatic(Buffer.from(`#!/bin/sh\n${'x'.repeat(100)}`))).toBe(false);
    expect(isStatic(elf([1, 2]).subarray(0, 100))).toBe(false);
    expect(isStatic(Buffer.alloc(0))).toBe(false);
  });
});

it('readEnd: returns a container’s output once the shell says that it ended', () => {
  expect(readEnd('1\n')).toBeNull();
  expect(readEnd('1\nend 0')).toBeNull();
  expect(readEnd('1\nend 0\n')).toEqual({ output: '1\n', exitCode: 0 });
  expect(readEnd('end 7\nend 1\n')).toEqual({ output: 'end 7\n', exitCode: 1 });
  expect(readEnd('end 127\n')).toEqual({ output: '', exitCode: 127 });
});

it('stepTimes: a step lasts until the next one begins, the last until packing', () => {
  const marks: readonly StepMark[] = [
    { kind: 'warning', atMs: 1 },
    { kind: 'step', atMs: 10 },
    { kind: 'output', atMs: 12 },
    { kind: 'done', atMs: 13 },
    { kind: 'step', atMs: 20 },
    { kind: 'done', atMs: 40 },
    { kind: 'pack', atMs: 50 },
  ];
  expect(stepTimes(marks)).toEqual([10, 30]);
  expect(stepTimes([])).toEqual([]);
});

it('sampleContent: equal each time, and compresses to a third', () => {
  const content = sampleContent(300_000);
  expect(sampleContent(300_000).equals(content)).toBe(true);
  const left = zstdCompressSync(content).length / content.length;
  expect(left).toBeGreaterThan(0.3);
  expect(left).toBeLessThan(0.4);
});
