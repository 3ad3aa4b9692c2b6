/**
 * Members that are ready before a request: clones that have said hello and have no owner yet.
 *
 *              make (low priority)              claim
 *     missing ────────────────────► ready ──────────────────► the caller's
 *        ▲      fails: backs off      │  └── offer: a waiting request
 *        └────────────────────────────┘
 *           ended, not alive, unhealthy: discarded and replaced
 *
 * Their number follows the demand (pool-target.ts). An empty pool is not an error: `claim` finds none, and the
 * caller starts a VM.
 *
 * No I/O: the members, the function that makes one, and the clock are injected.
 */

import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import { ignore, tryOr } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { orAborted, timeLimit } from '../../base/time-limit.ts';
import type { PoolInfo, PoolLimits } from '../contract/control.ts';
import { PoolTarget } from './pool-target.ts';

/** Maximum number of members made concurrently. */
export const REFILL_CONCURRENCY = 2;
/** Time between two rounds of checks; the target may fall by one in each. */
export const TICK_MS = 10_000;
/** Concurrent checks; a healthy guest answers within milliseconds. */
export const CHECK_CONCURRENCY = 4;
export const CHECK_TIMEOUT_MS = 5000;
/** Timeout of `close` for members that are being made or discarded; the rest is logged. */
export const CLOSE_MS_MAX = 30_000;
/** Backoff after a failure: doubles from min to max. */
export const BACKOFF_MS_MIN = 1000;
export const BACKOFF_MS_MAX = 60_000;

export interface PoolMember {
  readonly id: string;
  /** Settles when the member has ended, for any reason. */
  readonly ended: Promise<unknown>;
  /** Whether its process is alive; synchronous and cheap. */
  isAlive(): boolean;
  /** Asks the guest; rejects if it is unhealthy. */
  check(): Promise<void>;
  /** Ends the member and releases its resources. Called at most once. */
  discard(): Promise<unknown>;
}

export interface WarmPoolOptions<M extends PoolMember> {
  /** Rejects soon after the signal, or resolves anyway; the member is then discarded. */
  readonly make: (signal: AbortSignal) => Promise<M>;
  /**
   * Calls `run` when the queue admits it, and settles as that does. By then the member is delivered, so that a request
   * that waits for it does not start its own VM. If omitted, `run` is called at once.
   */
  readonly turn?: ((signal: AbortSignal, run: (signal: AbortSignal) => Promise<void>) => Promise<void>) | undefined;
  /** Offers a new member to a waiting request; returns false if none waits. If omitted, none ever waits. */
  readonly offer?: ((member: M) => boolean) | undefined;
  readonly limits: PoolLimits;
  readonly clock: Clock;
  readonly log: Log;
  /** Default `REFILL_CONCURRENCY`. */
  readonly refillConcurrency?: number | undefined;
}

export type WarmPoolStats = Omit<PoolInfo, 'template' | 'name' | 'spec'> & {
  /** Misses that were served by a new member while they waited. */
  readonly handedOver: number;
};

interface Ready<M> {
  readonly member: M;
  readonly madeMs: number;
  /** Has answered a check once. */
  proven: boolean;
  /** `due`: to be checked; `asked`: the check is under way. */
  check: 'none' | 'due' | 'asked';
}

export class WarmPool<M extends PoolMember> {
  readonly #options: WarmPoolOptions<M>;
  readonly #target: PoolTarget;
  /** Oldest first. */
  readonly #ready = new Set<Ready<M>>();
  /** Makes under way, oldest first, including aborted ones until they settle. */
  readonly #makes = new Map<AbortController, Promise<void>>();
  readonly #discards = new Set<Promise<void>>();
  readonly #counts = { hits: 0, misses: 0, handedOver: 0, discarded: 0 };
  /** Consecutive failures. Reset by a good member that was made after the last one. */
  #failures = 0;
  #failedMs = Number.NEGATIVE_INFINITY;
  #cancelBackoff: (() => void) | undefined;
  #checksAsked = 0;
  #cancelTick: () => void;
  #closing: Promise<void> | undefined;

  /** Starts making members. @throws SandboxError `spec_invalid` */
  constructor(options: WarmPoolOptions<M>) {
    this.#options = options;
    this.#target = new PoolTarget(options.limits, options.clock.now());
    this.#cancelTick = options.clock.after(TICK_MS, () => this.#tick());
    this.#adjust();
  }

  /**
   * Takes the oldest healthy member; undefined if there is none.
   * @param fits returns false for a member to end and replace
   */
  claim(fits: (member: M) => boolean = () => true): M | undefined {
    if (this.#closing !== undefined) return undefined;
    const found = this.#takeReady(fits);
    if (found === undefined) this.#counts.misses++;
    else this.#counts.hits++;
    this.#target.noteClaim(this.#options.clock.now());
    this.#adjust();
    return found;
  }

  /** Takes effect at once. @throws SandboxError `spec_invalid` */
  setLimits(limits: PoolLimits): void {
    this.#target.setLimits(limits);
    this.#adjust();
  }

  /** Ends a ready member, which is then replaced; resolves when it has ended. Does nothing if none is ready. */
  async endMember(): Promise<void> {
    const [oldest] = this.#ready;
    if (oldest === undefined) return;
    const ended = this.#discard(oldest);
    this.#adjust();
    await ended;
  }

  stats(): WarmPoolStats {
    return {
      min: this.#target.limits.min,
      max: this.#target.limits.max,
      target: this.#target.count,
      ready: this.#ready.size,
      starting: this.#starting().length,
      ...this.#counts,
    };
  }

  /**
   * Discards all members, including those that are still being made. Resolves when none is left, or after
   * `CLOSE_MS_MAX`.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    // From here on `#closing` is set, so members that end below are not replaced.
    await Promise.resolve();
    this.#cancelTick();
    this.#cancelBackoff?.();
    for (const aborter of this.#makes.keys()) aborter.abort();
    for (const ready of this.#ready) void this.#discard(ready);
    const late = Promise.withResolvers<'late'>();
    const { clock, log } = this.#options;
    const cancelTimer = clock.after(CLOSE_MS_MAX, () => late.resolve('late'));
    if ((await Promise.race([this.#emptied(), late.promise])) === 'late') {
      const left = { starting: this.#makes.size, discarded: this.#discards.size };
      log.error('pool members did not end in time', left);
    }
    cancelTimer();
  }

  async #emptied(): Promise<void> {
    while (this.#makes.size + this.#discards.size > 0) {
      await Promise.all([...this.#makes.values(), ...this.#discards]);
    }
  }

  /** A member whose check is under way is taken only if there is no other. */
  #takeReady(fits: (member: M) => boolean): M | undefined {
    const inOrder = [...this.#ready];
    const asked = inOrder.filter((ready) => ready.check === 'asked');
    for (const ready of [...inOrder.filter((one) => one.check !== 'asked'), ...asked]) {
      if (!isAlive(ready.member)) {
        this.#evict(ready, 'its process is gone');
        continue;
      }
      if (!fits(ready.member)) {
        this.#discard(ready);
        continue;
      }
      this.#ready.delete(ready);
      this.#endStreak(ready);
      return ready.member;
    }
    return undefined;
  }

  /** Makes missing members and ends surplus ones. */
  #adjust(): void {
    if (this.#closing !== undefined) return;
    const starting = this.#starting();
    let surplus = this.#ready.size + starting.length - this.#target.count;
    for (; surplus > 0 && starting.length > 0; surplus--) starting.pop()?.abort();
    for (const ready of this.#ready) {
      if (surplus <= 0) break;
      void this.#discard(ready);
      surplus--;
    }
    if (this.#cancelBackoff !== undefined) return;
    // While makes fail, one at a time is enough to detect recovery.
    const parallel = this.#failures > 0 ? 1 : (this.#options.refillConcurrency ?? REFILL_CONCURRENCY);
    for (; surplus < 0 && this.#makes.size < parallel; surplus++) {
      const aborter = new AbortController();
      this.#makes.set(aborter, this.#make(aborter));
    }
  }

  #starting(): AbortController[] {
    return [...this.#makes.keys()].filter(({ signal }) => !signal.aborted);
  }

  /** Never rejects. */
  async #make(aborter: AbortController): Promise<void> {
    const { clock, make, turn = atOnce } = this.#options;
    const beganMs = clock.now();
    // The make must be in `#makes` before it settles, and `claim` must not wait for its beginning.
    await Promise.resolve();
    try {
      aborter.signal.throwIfAborted();
      await turn(aborter.signal, async (signal) => {
        const member = await make(signal);
        this.#makes.delete(aborter);
        this.#target.noteMade(clock.now() - beganMs);
        this.#add(member, aborter.signal.aborted || this.#closing !== undefined);
      });
    } catch (error) {
      this.#makes.delete(aborter);
      if (aborter.signal.aborted) ignore(error, 'the make was cancelled');
      else this.#fail('a pool member could not be made', { error: describeError(error) });
    }
    this.#adjust();
  }

  #add(member: M, unwanted: boolean): void {
    const madeMs = this.#options.clock.now();
    const ready: Ready<M> = { member, madeMs, proven: false, check: 'none' };
    this.#ready.add(ready);
    if (unwanted) {
      void this.#discard(ready);
      return;
    }
    if (!isAlive(member)) {
      this.#evict(ready, 'it ended at once');
      return;
    }
    if (this.#options.offer?.(member)) {
      this.#ready.delete(ready);
      this.#endStreak(ready);
      this.#counts.handedOver++;
      return;
    }
    const onEnd = (): void => this.#evict(ready, 'it ended');
    member.ended.then(onEnd, onEnd);
  }

  /** Discards a bad member, which is then replaced. Does nothing if it is not in the pool. */
  #evict(ready: Ready<M>, why: string): void {
    if (!this.#ready.has(ready)) return;
    this.#counts.discarded++;
    void this.#discard(ready);
    const fields = { member: ready.member.id, why };
    // Without backoff, members that die young would be replaced in an endless loop.
    if (ready.proven) this.#options.log.warn('a pool member was lost', fields);
    else this.#fail('a new pool member was lost', fields);
    this.#adjust();
  }

  /** Never rejects. */
  #discard(ready: Ready<M>): Promise<void> {
    this.#ready.delete(ready);
    const { member } = ready;
    const discarding = (async () => await member.discard())()
      .catch((error: unknown) => {
        this.#options.log.error('a pool member could not be discarded', {
          member: member.id,
          error: describeError(error),
        });
      })
      .then(() => {
        this.#discards.delete(discarding);
      });
    this.#discards.add(discarding);
    return discarding;
  }

  /** Backs off. A streak of failures is logged once. */
  #fail(what: string, fields: Readonly<Record<string, string>>): void {
    // Concurrent failures count once.
    if (this.#cancelBackoff !== undefined) return;
    const backoffMs = Math.min(BACKOFF_MS_MIN * 2 ** this.#failures, BACKOFF_MS_MAX);
    if (this.#failures === 0) this.#options.log.warn(what, fields);
    this.#failures++;
    this.#failedMs = this.#options.clock.now();
    this.#cancelBackoff = this.#options.clock.after(backoffMs, () => {
      this.#cancelBackoff = undefined;
      this.#adjust();
    });
  }

  /** Call it when `ready` was handed out, or has answered. */
  #endStreak(ready: Ready<M>): void {
    if (ready.madeMs > this.#failedMs) this.#failures = 0;
  }

  #tick(): void {
    const { clock } = this.#options;
    this.#cancelTick = clock.after(TICK_MS, () => this.#tick());
    this.#target.tick(clock.now());
    this.#adjust();
    for (const ready of this.#ready) {
      if (!isAlive(ready.member)) this.#evict(ready, 'its process is gone');
      else if (ready.check === 'none') ready.check = 'due';
    }
    this.#askNext();
  }

  #askNext(): void {
    for (const ready of this.#ready) {
      if (this.#checksAsked >= CHECK_CONCURRENCY) return;
      if (ready.check === 'due') void this.#ask(ready);
    }
  }

  /** Never rejects. */
  async #ask(ready: Ready<M>): Promise<void> {
    ready.check = 'asked';
    this.#checksAsked++;
    using limit = timeLimit(this.#options.clock, CHECK_TIMEOUT_MS);
    try {
      await orAborted(ready.member.check(), limit.signal);
      ready.check = 'none';
      ready.proven = true;
      this.#endStreak(ready);
    } catch (error) {
      this.#evict(ready, describeError(error));
    } finally {
      this.#checksAsked--;
    }
    this.#askNext();
  }
}

async function atOnce(signal: AbortSignal, run: (signal: AbortSignal) => Promise<void>): Promise<void> {
  await run(signal);
}

function isAlive(member: PoolMember): boolean {
  return tryOr(false, 'a member without an answer is not alive', () => member.isAlive());
}
