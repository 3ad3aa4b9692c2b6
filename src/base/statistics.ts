/**
 * The percentile by nearest rank: the smallest sample that so many percent of them do not exceed. Of an even number, the
 * median is the lower one of both in the middle.
 * @param percent 0 to 100
 * @returns undefined without a sample
 */
export function percentile(samples: readonly number[], percent: number): number | undefined {
  const rank = Math.ceil((percent * samples.length) / 100);
  return [...samples].sort((one, other) => one - other)[Math.max(1, rank) - 1];
}

export const median = (samples: readonly number[]): number | undefined => percentile(samples, 50);
