import { describe, expect, it } from 'vitest';
import { ReclaimMeter } from './reclaim-meter.ts';

describe('ReclaimMeter', () => {
  it('reports the share of the last 10 s, at most every 5 s', () => {
    const meter = new ReclaimMeter();
    expect(meter.note(500e6, 1000)).toBe(5);
    expect(meter.note(700e6, 1100)).toBeNull();
    expect(meter.note(900e6, 5999)).toBeNull();
    expect(meter.note(1000e6, 6000)).toBe(10);
    // Waits before these 10 s do not count.
    expect(meter.note(1100e6, 30_000)).toBe(1);
    expect(meter.note(1138.518637e6, 60_000)).toBe(0.39);
  });

  it('is at most 1, however many threads wait', () => {
    const meter = new ReclaimMeter();
    expect(meter.note(80e9, 0)).toBe(100);
  });

  it('keeps a bounded number of sums', () => {
    const meter = new ReclaimMeter();
    for (let n = 0; n < 10_000; n += 1) meter.note(n * 1e6, n);
    expect(meter.note(10_000e6, 20_000)).toBeLessThanOrEqual(100);
  });
});
