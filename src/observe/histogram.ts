/**
 * Histograms of times with buckets of powers of two, as our BPF programs keep them: bucket n counts times of
 * 2^n to 2^(n+1) − 1 ns, the first also 0, the last all that is longer. Pure.
 */

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

export interface PrometheusHistogram {
  /** Cumulative, by upper bound in seconds; the last is `+Inf`, and all. */
  readonly buckets: readonly { readonly le: string; readonly count: number }[];
  readonly sum: number;
  readonly count: number;
}

/** Upper bounds from 2 µs to 17 s: fewer lines for each sandbox, and nothing shorter or longer is told apart. */
const FIRST_BOUND_BITS = 11;
const LAST_BOUND_BITS = 34;

/** Of the classic kind (exposition format 0.0.4); a bound of 2^n ns excludes what took exactly that. */
export function toPrometheus(histogram: Histogram): PrometheusHistogram {
  let below = 0;
  const buckets = histogram.buckets.flatMap((here, bucket) => {
    below += here;
    const bits = bucket + 1;
    if (bits < FIRST_BOUND_BITS || bits > LAST_BOUND_BITS) return [];
    return [{ le: String(2 ** bits / 1e9), count: below }];
  });
  const count = countOf(histogram);
  return { buckets: [...buckets, { le: '+Inf', count }], sum: histogram.sumNs / 1e9, count };
}
