import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BUCKETS, bucketOf, type Histogram, quantileNs, toPrometheus } from './histogram.ts';

const times = fc.array(fc.integer({ min: 0, max: 2 ** 39 - 1 }), { minLength: 1, maxLength: 200 });

function histogramOf(timesNs: readonly number[]): Histogram {
  const buckets = Array.from({ length: BUCKETS }, () => 0);
  for (const ns of timesNs) buckets[bucketOf(ns)] = (buckets[bucketOf(ns)] ?? 0) + 1;
  return { buckets, sumNs: timesNs.reduce((sum, ns) => sum + ns, 0) };
}

describe('quantileNs', () => {
  it('lies within the bucket of the time with its rank', () => {
    fc.assert(
      fc.property(times, fc.double({ min: 0.01, max: 1, noNaN: true }), (all, fraction) => {
        const sorted = [...all].sort((a, b) => a - b);
        const exact = sorted[Math.ceil(fraction * sorted.length) - 1] ?? 0;
        const bucket = bucketOf(exact);
        const estimate = quantileNs(histogramOf(all), fraction) ?? -1;
        expect(estimate).toBeGreaterThanOrEqual(bucket === 0 ? 0 : 2 ** bucket);
        expect(estimate).toBeLessThanOrEqual(2 ** (bucket + 1));
      }),
    );
  });

  it('never decreases as the fraction increases', () => {
    fc.assert(
      fc.property(times, (all) => {
        const histogram = histogramOf(all);
        const quantiles = Array.from({ length: 21 }, (_, n) => quantileNs(histogram, n / 20) ?? -1);
        expect(quantiles).toEqual([...quantiles].sort((a, b) => a - b));
      }),
    );
  });
});

describe('toPrometheus', () => {
  it('counts below each bound exactly the times below it', () => {
    fc.assert(
      fc.property(times, (all) => {
        const { buckets } = toPrometheus(histogramOf(all));
        let below = 0;
        for (const { le, count } of buckets) {
          below += count;
          expect(below).toBe(all.filter((ns) => ns < Math.round(le * 1e9)).length);
        }
        expect(below).toBe(all.length);
      }),
    );
  });
});
