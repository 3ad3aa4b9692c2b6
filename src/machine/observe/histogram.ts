/**
 * Histograms of times with power-of-two buckets, as in our BPF programs: bucket n counts times from 2^n to 2^(n+1) − 1
 * ns, the first also 0, the last also all longer ones. Pure.
 */

import type { CountedHistogram } from '../../base/metrics.ts';

/** NV_BUCKETS of bpf/latency.h. */
export const BUCKETS = 40;

export interface Histogram {
  /** Has `BUCKETS` elements. */
  readonly buckets: readonly number[];
  readonly sumNs: number;
}

export const EMPTY: Histogram = { buckets: Array.from({ length: BUCKETS }, () => 0), sumNs: 0 };

/** Bounds of a bucket, ns; the last bucket is unbounded. */
export function boundsNs(bucket: number): { readonly from: number; readonly to: number } {
  return { from: bucket === 0 ? 0 : 2 ** bucket, to: 2 ** (bucket + 1) };
}

export function bucketOf(ns: number): number {
  return ns < 1 ? 0 : Math.min(Math.floor(Math.log2(ns)), BUCKETS - 1);
}

export function countOf({ buckets }: Histogram): number {
  return buckets.reduce((sum, count) => sum + count, 0);
}

export function sumHistograms(all: readonly Histogram[]): Histogram {
  return all.reduce(
    (sum, { buckets, sumNs }) => ({
      buckets: sum.buckets.map((count, index) => count + (buckets[index] ?? 0)),
      sumNs: sum.sumNs + sumNs,
    }),
    EMPTY,
  );
}

/** The difference; `later` includes the counts of `earlier`. */
export function since(later: Histogram, earlier: Histogram): Histogram {
  const buckets = later.buckets.map((count, index) => count - (earlier.buckets[index] ?? 0));
  return { buckets, sumNs: later.sumNs - earlier.sumNs };
}

/**
 * The quantile in ns, assuming an even spread within a bucket, so accurate to a factor of 2.
 * @param fraction 0 to 1
 * @returns undefined for an empty histogram
 */
export function quantileNs(histogram: Histogram, fraction: number): number | undefined {
  const count = countOf(histogram);
  if (count === 0) return undefined;
  const rank = fraction * count;
  let below = 0;
  let last = 0;
  for (const [bucket, here] of histogram.buckets.entries()) {
    if (here === 0) continue;
    const { from, to } = boundsNs(bucket);
    if (below + here >= rank) return from + ((to - from) * Math.max(rank - below, 0)) / here;
    below += here;
    last = to;
  }
  return last;
}

/** Exported upper bounds, from 2 µs to 17 s; shorter and longer times are merged. */
const FIRST_BOUND_BITS = 11;
const LAST_BOUND_BITS = 34;

/** Converts to seconds, for `histogramSamples`. A bound of 2^n ns excludes exactly that time. */
export function toPrometheus(histogram: Histogram): CountedHistogram {
  const counts = new Map<number, number>();
  for (const [bucket, count] of histogram.buckets.entries()) {
    const bits = Math.max(bucket + 1, FIRST_BOUND_BITS);
    const le = bits > LAST_BOUND_BITS ? Number.POSITIVE_INFINITY : 2 ** bits / 1e9;
    counts.set(le, (counts.get(le) ?? 0) + count);
  }
  const buckets = [...counts].map(([le, count]) => ({ le, count }));
  return { buckets, sum: histogram.sumNs / 1e9 };
}
