import { describe, expect, it } from 'vitest';
import { BUCKETS, boundsNs, bucketOf, EMPTY, type Histogram, quantileNs, since, toPrometheus } from './histogram.ts';

function histogramOf(...timesNs: number[]): Histogram {
  const buckets = Array.from({ length: BUCKETS }, () => 0);
  for (const ns of timesNs) buckets[bucketOf(ns)] = (buckets[bucketOf(ns)] ?? 0) + 1;
  return { buckets, sumNs: timesNs.reduce((sum, ns) => sum + ns, 0) };
}

describe('bucketOf', () => {
  it.each([
    [0, 0],
    [1, 0],
    [2, 1],
    [3, 1],
    [4, 2],
    [20e6, 24],
    [2 ** 24 - 1, 23],
    [2 ** 24, 24],
    [2 ** 60, BUCKETS - 1],
  ])('%d ns is in bucket %d', (ns, bucket) => {
    expect(bucketOf(ns)).toBe(bucket);
    const { from, to } = boundsNs(bucket);
    expect(ns).toBeGreaterThanOrEqual(from);
    if (bucket < BUCKETS - 1) expect(ns).toBeLessThan(to);
  });
});

describe('quantileNs', () => {
  it('interpolates within the bucket of the quantile', () => {
    const times = [1000, 1000, 1000, 20e6];
    expect(bucketOf(quantileNs(histogramOf(...times), 0.5) ?? 0)).toBe(bucketOf(1000));
    expect(bucketOf(quantileNs(histogramOf(...times), 0.9) ?? 0)).toBe(bucketOf(20e6));
    expect(quantileNs(histogramOf(16, 16, 16, 16), 0.25)).toBe(20);
    expect(quantileNs(histogramOf(5), 1)).toBe(8);
  });

  it('is undefined without samples', () => {
    expect(quantileNs(EMPTY, 0.5)).toBeUndefined();
  });
});

describe('since', () => {
  it('returns the difference of two readings', () => {
    expect(since(histogramOf(5, 70, 5), histogramOf(5))).toEqual(histogramOf(70, 5));
  });
});

describe('toPrometheus', () => {
  it('counts in seconds; out-of-range values are in the first and last bucket', () => {
    const { buckets, sum } = toPrometheus(histogramOf(1, 20e6, 100e9));
    expect(sum).toBeCloseTo(100.020000001, 9);
    expect(buckets).toHaveLength(25);
    expect(buckets[0]).toEqual({ le: 0.000002048, count: 1 });
    expect(buckets.filter(({ count }) => count > 0)).toEqual([
      { le: 0.000002048, count: 1 },
      { le: 0.033554432, count: 1 },
      { le: Number.POSITIVE_INFINITY, count: 1 },
    ]);
    const bounds = buckets.map(({ le }) => le);
    expect(bounds).toEqual(bounds.toSorted((a, b) => a - b));
  });
});
