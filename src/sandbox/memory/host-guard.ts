/**
 * What to do while the memory of the host is short. Pure: takes numbers, returns one action.
 *
 *     available   ≥ high            enough, even if it was short
 *                 ≥ reserve         as before, but enough if nothing can free more
 *                 ≥ low             as before: below high it stays short until it is enough
 *                 < low             short
 *
 *     short:      1. drop shared memory that nobody uses, which costs only a copy
 *                 2. end a member of a pool, which costs little to make again
 *                 3. pause a sandbox to disk: idle for longest; then busy; then paused in memory, since that must run for it
 *                 4. refuse starts and growth
 *
 * `refuse` as the policy leaves only the first and the last. One action at a time: the next look sees what it has freed.
 */
export type MemoryShort = 'pause' | 'refuse';

/** MiB. */
export interface MemoryMarks {
  readonly lowMib: number;
  readonly reserveMib: number;
  readonly highMib: number;
}

/** The least that starts and growth leave free, and the default. */
export const RESERVE_MIB = 512;
/** Of the host's memory, kept free for it and for growth between two looks. */
const RESERVE_SHARE = 1 / 32;
const RESERVE_MIB_MAX = 4096;
const LOW_SHARE = 1 / 2;
/** Above the reserve: what was freed admits a few starts, which do not make it short again at once. */
const HIGH_SHARE = 5 / 4;

/** Memory that starts and growth leave free, MiB. */
export function reserveMibOf(totalMib: number): number {
  return Math.round(Math.min(Math.max(totalMib * RESERVE_SHARE, RESERVE_MIB), RESERVE_MIB_MAX));
}

export function memoryMarks(reserveMib: number): MemoryMarks {
  return { lowMib: reserveMib * LOW_SHARE, reserveMib, highMib: reserveMib * HIGH_SHARE };
}

/** A sandbox with a VM. */
export interface PauseCandidate {
  readonly id: string;
  /** It has an open operation or model request, or that is unknown. */
  readonly isBusy: boolean;
  /** Paused in memory. */
  readonly isPaused: boolean;
  /** Since its last use, milliseconds. */
  readonly idleMs: number;
  /** It could not be paused lately. */
  readonly isHeldOff: boolean;
}

export type GuardAction =
  | { readonly do: 'nothing' | 'drop-unused' | 'end-pool-member' | 'refuse' }
  | { readonly do: 'pause'; readonly id: string };

export interface ShortHost {
  readonly policy: MemoryShort;
  /** Of shared memory that nobody uses. */
  readonly unusedBytes: number;
  /** Members of pools that are ready. */
  readonly poolMembers: number;
  readonly candidates: readonly PauseCandidate[];
}

/** The action while memory is short. */
export function actionFor(host: ShortHost): GuardAction {
  const { policy, unusedBytes, poolMembers, candidates } = host;
  if (unusedBytes > 0) return { do: 'drop-unused' };
  if (policy === 'refuse') return { do: 'refuse' };
  if (poolMembers > 0) return { do: 'end-pool-member' };
  const able = candidates.filter(({ isHeldOff }) => !isHeldOff);
  const [first] = able.toSorted((a, b) => rankOf(a) - rankOf(b) || b.idleMs - a.idleMs);
  return first === undefined ? { do: 'refuse' } : { do: 'pause', id: first.id };
}

/** One that was idle for less is left alone for the sake of another: two that are used in turn would pause each other. */
export const IDLE_MS_MIN = 60_000;

/** The action while memory is enough, but not for a paused sandbox that is to resume: the space of one that is idle. */
export function actionForResume(host: ShortHost): GuardAction {
  const idle = host.candidates.filter((one) => rankOf(one) === 0 && one.idleMs >= IDLE_MS_MIN);
  const action = actionFor({ ...host, candidates: idle });
  return action.do === 'refuse' ? { do: 'nothing' } : action;
}

const rankOf = ({ isBusy, isPaused }: PauseCandidate): number => (isPaused ? 2 : isBusy ? 1 : 0);

/** Whether memory is short, with hysteresis. */
export class Shortage {
  readonly #marks: MemoryMarks;
  #isShort = false;

  constructor(marks: MemoryMarks) {
    this.#marks = marks;
  }

  get isShort(): boolean {
    return this.#isShort;
  }

  /** @param availableMib now. @returns whether it is short */
  take(availableMib: number): boolean {
    const { lowMib, highMib } = this.#marks;
    this.#isShort = availableMib < (this.#isShort ? highMib : lowMib);
    return this.#isShort;
  }

  /** Nothing can free more. @returns whether it is short: with the reserve free, starts may have what is above it */
  takeLast(availableMib: number): boolean {
    if (availableMib >= this.#marks.reserveMib) this.#isShort = false;
    return this.#isShort;
  }
}
