import { expect, it } from 'vitest';
import { differenceNote } from './overhead.ts';

it('differenceNote: differences of medians and of 99th percentiles', () => {
  const own = Array.from({ length: 100 }, (_, i) => (i < 98 ? 1 : 9));
  const baseline = Array.from({ length: 100 }, (_, i) => (i < 98 ? 0.25 : 4));
  expect(differenceNote(own, baseline)).toBe('difference: p50 1.00 - 0.25 = 0.75 ms, p99 9.00 - 4.00 = 5.00 ms');
  expect(differenceNote([], baseline)).toBe('difference: p50 -, p99 -');
});
