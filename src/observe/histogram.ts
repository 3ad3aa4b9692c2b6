/**
 * Histograms of times with buckets of powers of two, as our BPF programs keep them: bucket n counts times of
 * 2^n to 2^(n+1) − 1 ns, the first also 0, the last all that is longer. Pure.
 */

import type { CountedHistogram } from '../base/metrics.ts';

/** NV_BUCKETS of bpf/latency.h. */
export const BUCKETS = 40;

export interface Histogram {
  /** `BUCKETS` of them. */
  readonly buckets: readonly number[];
  /** ns */
  readonly sumNs: number;
}

export const EMPTY: Histogram = { buckets: Array.from({ length: BUCKETS }, () => 0), sumNs: 0 };

/** Where a bucket begins and ends, ns; the last one has no end of its own. */
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

/** What came since: `later` counts what `earlier` does and more. */
export function since(later: Histogram, earlier: Histogram): Histogram {
  const buckets = later.buckets.map((count, index) => count - (earlier.buckets[index] ?? 0));
  return { buckets, sumNs: later.sumNs - earlier.sumNs };
}

/**
 * Below which `fraction` of the times are, ns: as if the times of a bucket were spread evenly, so it is right
 * to a factor of 2.
 * @param fraction 0 to 1
 * @returns undefined without a time
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

/** Upper bounds from 2 µs to 17 s: fewer lines for each path, and nothing shorter or longer is told apart. */
const FIRST_BOUND_BITS = 11;
const LAST_BOUND_BITS = 34;

/** For `histogramSamples`, in seconds. A bound of 2^n ns excludes what took exactly that. */
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
