/**
 * Data that instrumented code writes while a target runs: how often each branch was taken, and which comparisons failed
 * by how much. One per thread; the engine reads it after every run.
 */

/** Branches and comparisons of all modules of one target; the largest today has less than a fifth of this. */
const BRANCHES_MAX = 1 << 16;
const COMPARISONS_MAX = 1 << 15;
/** Distinguishable steps toward equality of one comparison: 32 bits, or a common prefix. */
export const STEPS = 33;
/** The last failed comparisons, which the mutator tries to make succeed. */
const RECENT_MAX = 64;
const STRING_CHARS_MAX = 40;

/** Runs per branch; saturates at 255. */
export const branches = new Uint8ClampedArray(BRANCHES_MAX);
/** Indexed by comparison and step: 1 if that closeness was reached in this run. */
export const closeness = new Uint8Array(COMPARISONS_MAX * STEPS);
/** Indices of `closeness` that this run has set. */
export const reached: number[] = [];
export const recent: { readonly saw: unknown[]; readonly wanted: unknown[]; next: number } = {
  saw: new Array(RECENT_MAX).fill(undefined),
  wanted: new Array(RECENT_MAX).fill(undefined),
  next: 0,
};
export const counts = { branches: 0, comparisons: 0 };

export function allot(newBranches: number, newComparisons: number): void {
  counts.branches += newBranches;
  counts.comparisons += newComparisons;
  if (counts.branches > BRANCHES_MAX || counts.comparisons > COMPARISONS_MAX) {
    throw new Error('the target imports too much: raise BRANCHES_MAX and COMPARISONS_MAX');
  }
}

export function resetProbe(): void {
  branches.fill(0, 0, counts.branches);
  for (const index of reached) closeness[index] = 0;
  reached.length = 0;
}

/** Replaces `saw === wanted` and similar: notes how near it was, and what would have made it true. */
export function note(site: number, saw: unknown, wanted: unknown): void {
  let step: number;
  if (typeof saw === 'number' && typeof wanted === 'number') {
    if (saw === wanted || !Number.isInteger(saw) || !Number.isInteger(wanted)) return;
    step = Math.clz32(saw ^ wanted);
  } else if (typeof saw === 'string' && typeof wanted === 'string') {
    if (saw === wanted || saw.length > STRING_CHARS_MAX || wanted.length > STRING_CHARS_MAX) return;
    const end = Math.min(saw.length, wanted.length, STEPS - 1);
    step = 0;
    while (step < end && saw.charCodeAt(step) === wanted.charCodeAt(step)) step += 1;
  } else return;
  recent.saw[recent.next] = saw;
  recent.wanted[recent.next] = wanted;
  recent.next = (recent.next + 1) % RECENT_MAX;
  const index = site * STEPS + step;
  if (closeness[index] !== 0) return;
  closeness[index] = 1;
  reached.push(index);
}

export function isSame(site: number, left: unknown, right: unknown): boolean {
  note(site, left, right);
  return left === right;
}

export function isOther(site: number, left: unknown, right: unknown): boolean {
  note(site, left, right);
  return left !== right;
}

/** Replaces a case of a `switch`, which is compared next. */
export function caseOf<T>(site: number, subject: unknown, value: T): T {
  note(site, subject, value);
  return value;
}
