import { describe, expect, it } from 'vitest';
import { TokenTimes } from './token-times.ts';

describe('TokenTimes', () => {
  it('measures the first token from the end of the request, and splits the time between chunks among their events', () => {
    const times = new TokenTimes(1000, [0.05, 0.1]);
    expect(times.firstMs).toBeNull();
    times.record(0, 1100);
    times.record(1, 1500);
    times.record(1, 1580);
    times.record(4, 1780);
    times.record(1, 2780);
    expect(times.firstMs).toBe(500);
    expect(times.gaps).toEqual([4, 1, 1]);
    expect(times.gapSumSeconds).toBeCloseTo(1.28);
  });

  it('counts no gap for further events of the first chunk', () => {
    const times = new TokenTimes(0, [0.05]);
    times.record(3, 100);
    expect(times.gaps).toEqual([2, 0]);
    expect(times.gapSumSeconds).toBe(0);
  });
});
