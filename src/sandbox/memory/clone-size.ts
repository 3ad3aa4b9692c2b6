/**
 * How much memory clones that share RAM will use of their own. Admission uses this estimate, and memory that live clones
 * are expected to take stays reserved for them.
 *
 *     own at birth ──────► own now ──────► expected (mean of all live clones plus a quarter) ─ ─ ─► the whole size
 *                                └─ pending ─┘
 *
 * Growth beyond the estimate is left to the guard (`host-guard.ts`).
 */
import type { Clock } from '../../base/clock.ts';

export interface LiveClone {
  /** Memory of its own in MiB; `null` if unknown. */
  readonly ownMib: number | null;
  /** Maximum memory of its guest in MiB. */
  readonly sizeMib: number;
}

export const CLONE_SIZE = {
  /** Used before enough clones were measured: 35 to 45 MiB at birth, plus what a program with some libraries takes. */
  defaultMib: 128,
  /** Lower bound, even if all live clones use less: a clone at birth and its first program. */
  leastMib: 64,
  /** Fewer live clones are no sample. */
  clonesMin: 8,
  /** Factor on the mean: young clones are still growing. */
  margin: 1.25,
  /**
   * Multiple of the median at which a larger clone is capped; otherwise it alone would reserve room for many small
   * ones.
   */
  outlier: 8,
  /** Maximum age of measurements; each takes some system calls per clone. */
  ageMsMax: 1000,
} as const;

/** Expected own memory of a new clone of any size, MiB. */
export function expectedOf(clones: readonly LiveClone[]): number {
  const known = clones.flatMap(({ ownMib }) => ownMib ?? []);
  const floorMib = known.length < CLONE_SIZE.clonesMin ? CLONE_SIZE.defaultMib : CLONE_SIZE.leastMib;
  return Math.max(floorMib, cappedMean(known) * CLONE_SIZE.margin);
}

/** The mean, with each value capped at eight times the median; 0 without values. */
export function cappedMean(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const most = CLONE_SIZE.outlier * (sorted[Math.floor((sorted.length - 1) / 2)] ?? 0);
  const sum = sorted.reduce((all, value) => all + Math.min(value, most), 0);
  return sum / Math.max(1, sorted.length);
}

/** Memory that the clones are expected to take in addition, MiB. */
export function pendingOf(clones: readonly LiveClone[], expectedMib: number): number {
  return clones.reduce((sum, { ownMib, sizeMib }) => {
    return sum + Math.max(0, Math.min(expectedMib, sizeMib) - (ownMib ?? 0));
  }, 0);
}

export class CloneSizes {
  readonly #clock: Clock;
  readonly #clones: () => readonly LiveClone[];
  #known = { atMs: Number.NEGATIVE_INFINITY, expectedMib: 0, pendingMib: 0 };

  /** @param clones measures all live clones */
  constructor(clock: Clock, clones: () => readonly LiveClone[]) {
    this.#clock = clock;
    this.#clones = clones;
  }

  /** Expected own memory of a new clone of this size, MiB. */
  expectedMib(sizeMib: number): number {
    return Math.min(sizeMib, Math.ceil(this.#look().expectedMib));
  }

  /** Memory that all live clones are expected to take in addition, MiB. */
  pendingMib(): number {
    return this.#look().pendingMib;
  }

  #look(): { readonly expectedMib: number; readonly pendingMib: number } {
    const atMs = this.#clock.now();
    if (atMs - this.#known.atMs >= CLONE_SIZE.ageMsMax) {
      const clones = this.#clones();
      const expectedMib = expectedOf(clones);
      this.#known = { atMs, expectedMib, pendingMib: pendingOf(clones, expectedMib) };
    }
    return this.#known;
  }
}
