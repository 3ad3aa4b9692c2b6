import { expect, it } from 'vitest';
import { median, percentile } from './statistics.ts';

it('percentile: nearest rank, whatever the order', () => {
  const samples = [5, 1, 4, 2, 3];
  expect([0, 50, 95, 100].map((percent) => percentile(samples, percent))).toEqual([1, 3, 5, 5]);
  expect(percentile([7], 50)).toBe(7);
  expect(percentile([], 50)).toBeUndefined();
});

it('percentile: a whole rank is not rounded up', () => {
  const samples = Array.from({ length: 100 }, (_, index) => index + 1);
  expect([7, 29, 57, 99].map((percent) => percentile(samples, percent))).toEqual([7, 29, 57, 99]);
});

it('median: the middle one, of an even number the lower one', () => {
  expect(median([3, 1, 2.04])).toBe(2.04);
  expect(median([4, 1])).toBe(1);
  expect(median([])).toBeUndefined();
});
