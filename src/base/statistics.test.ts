import { expect, it } from 'vitest';
import { jainIndex, median, percentile } from './statistics.ts';

it('percentile: nearest rank, for samples in any order', () => {
  const samples = [5, 1, 4, 2, 3];
  expect([0, 50, 95, 100].map((percent) => percentile(samples, percent))).toEqual([1, 3, 5, 5]);
  expect(percentile([7], 50)).toBe(7);
  expect(percentile([], 50)).toBeUndefined();
});

it('percentile: an integer rank is not rounded up', () => {
  const samples = Array.from({ length: 100 }, (_, index) => index + 1);
  expect([7, 29, 57, 99].map((percent) => percentile(samples, percent))).toEqual([7, 29, 57, 99]);
});

it('median: the middle sample; for an even number, the lower one', () => {
  expect(median([3, 1, 2.04])).toBe(2.04);
  expect(median([4, 1])).toBe(1);
  expect(median([])).toBeUndefined();
});

it('jainIndex: 1 for equal shares of any size, 1/n if one has everything, in between by the formula', () => {
  expect([jainIndex([3, 3, 3]), jainIndex([7])]).toEqual([1, 1]);
  expect(jainIndex([0, 9, 0, 0])).toBe(0.25);
  // (1 + 2 + 3)² / (3 · (1 + 4 + 9))
  expect(jainIndex([1, 2, 3])).toBeCloseTo(36 / 42, 12);
  expect([jainIndex([]), jainIndex([0, 0])]).toEqual([undefined, undefined]);
});
