/**
 * The action while the host's memory is short. Pure: takes numbers, returns one action.
 *
 *     available   ≥ high            enough, even if it was short
 *                 ≥ reserve         as before, but enough if nothing can free more
 *                 ≥ low             as before: below high it stays short until it is enough
 *                 < low             short
 *
 *     short:      1. drop unused shared memory, which costs only a copy
 *                 2. end a pool member, which is cheap to replace
 *                 3. pause a sandbox to disk: the longest idle; then busy; then paused in memory, since it must run for that
 *                 4. refuse starts and growth
 *
 * The policy `refuse` has only the first and the last step. One action at a time: the next check sees what it freed.
 */
export type MemoryShort = 'pause' | 'refuse';

export interface MemoryMarks {
  readonly lowMib: number;
  readonly reserveMib: number;
  readonly highMib: number;
}

/** The minimum, and default, of memory that starts and growth leave free. */
export const RESERVE_MIB = 512;
/** Share of the host's memory, kept free for the host and for growth between two checks. */
const RESERVE_SHARE = 1 / 32;
const RESERVE_MIB_MAX = 4096;
const LOW_SHARE = 1 / 2;
/** High mark relative to the reserve: freed memory admits a few starts without making memory short again at once. */
const HIGH_SHARE = 5 / 4;

/** Memory that starts and growth leave free, MiB. */
export function reserveMibOf(totalMib: number): number {
  return Math.round(Math.min(Math.max(totalMib * RESERVE_SHARE, RESERVE_MIB), RESERVE_MIB_MAX));
}

export function memoryMarks(reserveMib: number): MemoryMarks {
  return { lowMib: reserveMib * LOW_SHARE, reserveMib, highMib: reserveMib * HIGH_SHARE };
}

export interface PauseCandidate {
  readonly id: string;
  /** The sandbox has an open operation or model request, or that is unknown. */
  readonly isBusy: boolean;
  readonly isPaused: boolean;
  /** Milliseconds since its last use. */
  readonly idleMs: number;
  /** A recent attempt to pause it failed. */
  readonly isHeldOff: boolean;
}

export type GuardAction =
  | { readonly do: 'nothing' | 'drop-unused' | 'end-pool-member' | 'refuse' }
  | { readonly do: 'pause'; readonly id: string };

export interface ShortHost {
  readonly policy: MemoryShort;
  /** Bytes of shared memory without users. */
  readonly unusedBytes: number;
  readonly poolMembers: number;
  readonly candidates: readonly PauseCandidate[];
}

export function actionFor(host: ShortHost): GuardAction {
  const { policy, unusedBytes, poolMembers, candidates } = host;
  if (unusedBytes > 0) return { do: 'drop-unused' };
  if (policy === 'refuse') return { do: 'refuse' };
  if (poolMembers > 0) return { do: 'end-pool-member' };
  const able = candidates.filter(({ isHeldOff }) => !isHeldOff);
  const [first] = able.toSorted((a, b) => rankOf(a) - rankOf(b) || b.idleMs - a.idleMs);
  return first === undefined ? { do: 'refuse' } : { do: 'pause', id: first.id };
}

/** Sandboxes idle for less are not paused in favor of another: two that are used in turn would pause each other. */
export const IDLE_MS_MIN = 60_000;

/** The action while memory is enough in general, but not for a sandbox that is about to resume: pause an idle one. */
export function actionForResume(host: ShortHost): GuardAction {
  const idle = host.candidates.filter((one) => rankOf(one) === 0 && one.idleMs >= IDLE_MS_MIN);
  const action = actionFor({ ...host, candidates: idle });
  return action.do === 'refuse' ? { do: 'nothing' } : action;
}

const rankOf = ({ isBusy, isPaused }: PauseCandidate): number => (isPaused ? 2 : isBusy ? 1 : 0);

/** Decides whether memory is short, with hysteresis. */
export class Shortage {
  readonly #marks: MemoryMarks;
  #isShort = false;

  constructor(marks: MemoryMarks) {
    this.#marks = marks;
  }

  get isShort(): boolean {
    return this.#isShort;
  }

  /** @returns whether memory is short */
  take(availableMib: number): boolean {
    const { lowMib, highMib } = this.#marks;
    this.#isShort = availableMib < (this.#isShort ? highMib : lowMib);
    return this.#isShort;
  }

  /**
   * For when nothing can free more. @returns whether memory is short; with the reserve free, starts may use the memory
   * above it
   */
  takeLast(availableMib: number): boolean {
    if (availableMib >= this.#marks.reserveMib) this.#isShort = false;
    return this.#isShort;
  }
}
