import { describe, expect, it } from 'vitest';
import { isUnchanged, rangeOf } from './range.ts';

const modifiedMs = Date.parse('Sat, 28 Nov 2026 10:00:00 GMT') + 321;
const file = { bytes: 100, modifiedMs };

describe('rangeOf', () => {
  it.each([
    ['bytes=0-9', { offset: 0, length: 10 }],
    ['bytes=90-', { offset: 90, length: 10 }],
    ['bytes=90-1000', { offset: 90, length: 10 }],
    ['bytes=-5', { offset: 95, length: 5 }],
    ['bytes=-500', { offset: 0, length: 100 }],
    ['bytes=100-', 'unsatisfiable'],
    ['bytes=-0', 'unsatisfiable'],
    ['bytes=9-3', null],
    ['bytes=-', null],
    ['bytes=0-1,5-6', null],
    ['lines=0-1', null],
  ])('%s of 100 bytes', (range, expected) => {
    expect(rangeOf({ range }, file)).toEqual(expected);
  });

  it('ignores a range of another version of the file, and of a file with size 0', () => {
    const of = (time: string) => rangeOf({ range: 'bytes=0-9', 'if-range': time }, file);
    expect(of('Sat, 28 Nov 2026 10:00:00 GMT')).toEqual({ offset: 0, length: 10 });
    expect(of('Sat, 28 Nov 2026 10:00:01 GMT')).toBeNull();
    expect(rangeOf({ range: 'bytes=0-9' }, { bytes: 0, modifiedMs })).toBeNull();
  });
});

describe('isUnchanged', () => {
  it('compares whole seconds', () => {
    const since = (time: string) => isUnchanged({ 'if-modified-since': time }, modifiedMs);
    expect(since('Sat, 28 Nov 2026 10:00:00 GMT')).toBe(true);
    expect(since('Sat, 28 Nov 2026 09:59:59 GMT')).toBe(false);
    expect(since('yesterday')).toBe(false);
  });
});
