import { expect, it } from 'vitest';
import { leastWaitMs, timesOf } from './server-times.ts';

it('timesOf: half a millisecond per prompt token, one per answer token, 16 of them in a chunk', () => {
  expect(timesOf(160, 16)).toEqual({ chunks: [{ tokens: 16, atMs: 96 }], firstMs: 96, dueMs: 96 });
  expect(timesOf(10, 40)).toEqual({
    chunks: [
      { tokens: 16, atMs: 21 },
      { tokens: 16, atMs: 37 },
      { tokens: 8, atMs: 45 },
    ],
    firstMs: 21,
    dueMs: 45,
  });
  expect(timesOf(10, 3)).toEqual({ chunks: [{ tokens: 3, atMs: 8 }], firstMs: 8, dueMs: 8 });
});

it('leastWaitMs: until the first running request ends; 0 while a slot is free', () => {
  const turn = (begunAtMs: number, dueAtMs: number, endedAtMs: number | null = null) => ({
    caller: 'c',
    begunAtMs,
    dueAtMs,
    endedAtMs,
  });
  const turns = [turn(0, 100), turn(10, 50), turn(20, 90, 60), turn(55, 200)];
  expect(leastWaitMs(turns, 3, 30)).toBe(20);
  // The second has ended, the fourth has not begun.
  expect(leastWaitMs(turns, 3, 52)).toBe(0);
  // Its actual end counts, even if late or early.
  expect(leastWaitMs(turns, 3, 57)).toBe(3);
  expect(leastWaitMs([], 1, 57)).toBe(0);
});
