/**
 * Checks bodies without holding up the event loop, which all sandboxes share (io).
 *
 *     up to 16 KiB, and the sandbox has loop time left ─► here
 *     up to 256 KiB ─► a thread: the worst takes 30 ms
 *     larger        ─► two threads of lower priority: the worst takes a second
 *
 * Sandboxes take turns at the threads. A thread starts at the first body for it and ends when idle. If it runs out of
 * memory or time, only its body is refused.
 */
import type { Clock } from '../base/clock.ts';
import type { LoopTime } from '../base/fairness/loop-time.ts';
import type { Log } from '../base/log.ts';
import type { BucketLimit } from '../base/token-bucket.ts';
import { KIB } from '../base/units.ts';
import { checkBody } from './check-body.ts';
import {
  CheckThreads,
  type ThreadJob,
  type ThreadLimits,
  type ThreadResult,
} from './check-threads.ts';

export interface CheckerLimits extends Omit<ThreadLimits, 'threadsMax' | 'nice'> {
  /** Larger bodies go to a thread; the worst of this size takes 2 ms. */
  readonly loopBytesMax: number;
  /** Larger bodies wait for each other. */
  readonly shortBytesMax: number;
}

export const CHECKER_LIMITS: CheckerLimits = {
  loopBytesMax: 16 * KIB,
  shortBytesMax: 256 * KIB,
  checkMsMax: 30_000,
  heapMibMax: 512,
  threadIdleMs: 30_000,
};

/** For bodies with a usual prompt, which should not wait for long ones. */
const SHORT = { threadsMax: 1, nice: 0 } as const;
/** Two, so that a sandbox that sends the worst bodies has one at most. */
const LONG = { threadsMax: 2, nice: 10 } as const;

/** For the bodies of one sandbox on the event loop, in milliseconds; beyond it, they go to a thread. */
export const BODY_LOOP_TIME: BucketLimit = { size: 10, refillPerSecond: 50 };

export interface CheckedBytes extends ThreadResult {
  readonly where: 'loop' | 'thread';
}

export class BodyChecker {
  readonly #limits: CheckerLimits;
  readonly #short: CheckThreads;
  readonly #long: CheckThreads;

  constructor(options: {
    readonly clock: Clock;
    readonly log: Log;
    readonly limits?: Partial<CheckerLimits>;
  }) {
    const { clock, log } = options;
    const limits = { ...CHECKER_LIMITS, ...options.limits };
    this.#limits = limits;
    this.#short = new CheckThreads(clock, log, { ...limits, ...SHORT });
    this.#long = new CheckThreads(clock, log, { ...limits, ...LONG });
  }

  /** Bodies that wait for a thread. */
  get waiting(): number {
    return this.#short.waiting + this.#long.waiting;
  }

  get threads(): number {
    return this.#short.size + this.#long.size;
  }

  /**
   * @param job with the loop time of the sandbox
   * @throws the signal's reason, if the body was still waiting
   */
  async check(job: ThreadJob & { readonly loopTime: LoopTime }): Promise<CheckedBytes> {
    const { bytes, check, loopTime, signal } = job;
    const { loopBytesMax, shortBytesMax } = this.#limits;
    if (bytes.length === 0 || (bytes.length <= loopBytesMax && loopTime.isOpen)) {
      const checked = loopTime.run(() => checkBody(bytes, check));
      return { checked, bytes, where: 'loop' };
    }
    signal.throwIfAborted();
    const threads = bytes.length <= shortBytesMax ? this.#short : this.#long;
    return { ...(await threads.check(job)), where: 'thread' };
  }

  /** Ends the threads; bodies in them and in the queue are refused. */
  async close(): Promise<void> {
    await Promise.all([this.#short.close(), this.#long.close()]);
  }
}
