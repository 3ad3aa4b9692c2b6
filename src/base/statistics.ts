/**
 * The percentile by nearest rank: the smallest sample that at least so many percent of the samples do not exceed. For
 * an even number of samples, the median is the lower of the middle two.
 * @param percent 0 to 100
 * @returns undefined without a sample
 */
export function percentile(samples: readonly number[], percent: number): number | undefined {
  const rank = Math.ceil((percent * samples.length) / 100);
  return [...samples].sort((one, other) => one - other)[Math.max(1, rank) - 1];
}

export const median = (samples: readonly number[]): number | undefined => percentile(samples, 50);

/**
 * Jain's fairness index of shares: 1 if all are equal, 1/n if one of n has everything.
 * @returns undefined if all are 0
 */
export function jainIndex(shares: readonly number[]): number | undefined {
  const sum = shares.reduce((total, one) => total + one, 0);
  const squares = shares.reduce((total, one) => total + one * one, 0);
  return squares === 0 ? undefined : (sum * sum) / (shares.length * squares);
}
