/**
 * How much memory clones that share their RAM will have of their own. A start is admitted by that, and what the clones that
 * live do not have yet stays free for them.
 *
 *     own at birth ──────► own now ──────► expected (mean of all that live, and a quarter) ─ ─ ─► the whole size
 *                                └─ pending ─┘
 *
 * An estimate: what grows beyond it is the guard's business (`host-guard.ts`).
 */
import type { Clock } from '../../base/clock.ts';

/** A clone that shares its RAM and lives. */
export interface LiveClone {
  /** Memory of its own, MiB; null: unknown. */
  readonly ownMib: number | null;
  /** The most that its guest can have, MiB. */
  readonly sizeMib: number;
}

export const CLONE_SIZE = {
  /** Before enough clones were measured: 35 to 45 MiB at birth, and as much as a program with some libraries takes. */
  defaultMib: 128,
  /** Even if all that live have less: a clone at birth, and room for its first program. */
  leastMib: 64,
  /** Fewer that live are no sample. */
  clonesMin: 8,
  /** On the mean: the young are still growing. */
  margin: 1.25,
  /** Of the median: a larger one counts as this much, or it alone would keep room free for each of many small ones. */
  outlier: 8,
  /** Of the numbers; each takes some system calls per clone. */
  ageMsMax: 1000,
} as const;

/** Of a new clone of any size, MiB. */
export function expectedOf(clones: readonly LiveClone[]): number {
  const known = clones.flatMap(({ ownMib }) => ownMib ?? []);
  const floorMib = known.length < CLONE_SIZE.clonesMin ? CLONE_SIZE.defaultMib : CLONE_SIZE.leastMib;
  return Math.max(floorMib, cappedMean(known) * CLONE_SIZE.margin);
}

/** The mean, in which none counts for more than eight times the median; 0 of none. */
export function cappedMean(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const most = CLONE_SIZE.outlier * (sorted[Math.floor((sorted.length - 1) / 2)] ?? 0);
  const sum = sorted.reduce((all, value) => all + Math.min(value, most), 0);
  return sum / Math.max(1, sorted.length);
}

/** What they are expected to take beyond what they have, MiB. */
export function pendingOf(clones: readonly LiveClone[], expectedMib: number): number {
  return clones.reduce((sum, { ownMib, sizeMib }) => {
    return sum + Math.max(0, Math.min(expectedMib, sizeMib) - (ownMib ?? 0));
  }, 0);
}

export class CloneSizes {
  readonly #clock: Clock;
  readonly #clones: () => readonly LiveClone[];
  #known = { atMs: Number.NEGATIVE_INFINITY, expectedMib: 0, pendingMib: 0 };

  /** @param clones measures them all */
  constructor(clock: Clock, clones: () => readonly LiveClone[]) {
    this.#clock = clock;
    this.#clones = clones;
  }

  /** What a new clone of this size is expected to have of its own, MiB. */
  expectedMib(sizeMib: number): number {
    return Math.min(sizeMib, Math.ceil(this.#look().expectedMib));
  }

  /** What all that live are expected to take beyond what they have, MiB. */
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
