/**
 * Checks bodies without holding up the event loop, which all sandboxes share (io).
 *
 *     up to 16 KiB, and the sandbox has loop time left ─► here
 *     up to 256 KiB ─► a thread: the worst takes 30 ms
 *     larger        ─► two threads of lower priority: the worst takes a second
 *
 * Sandboxes take turns at the threads (`turn-threads.ts`).
 */
import type { Clock } from '../../../base/clock.ts';
import type { LoopTime } from '../../../base/fairness/loop-time.ts';
import {
  ThreadError,
  type ThreadErrorCode,
  type ThreadLimits,
  TurnThreads,
} from '../../../base/fairness/turn-threads.ts';
import { type Checked, refused } from '../../../base/http/refusal.ts';
import type { Log } from '../../../base/log.ts';
import { modulePath } from '../../../base/module-path.ts';
import type { BucketLimit } from '../../../base/token-bucket.ts';
import { KIB } from '../../../base/units.ts';
import type { BodyAnswer, BodyRequest } from './body-worker.ts';
import { type BodyCheck, type CheckedBody, checkBody } from './check-body.ts';

export interface CheckerLimits extends Omit<ThreadLimits, 'threadsMax' | 'nice'> {
  /** Larger bodies go to a thread; the worst of this size takes 2 ms. */
  readonly loopBytesMax: number;
  /** Larger bodies wait for each other. */
  readonly shortBytesMax: number;
}

export const CHECKER_LIMITS: CheckerLimits = {
  loopBytesMax: 16 * KIB,
  shortBytesMax: 256 * KIB,
  workMsMax: 30_000,
  heapMibMax: 512,
  threadIdleMs: 30_000,
};

/** For bodies with a usual prompt, which should not wait for long ones. */
const SHORT = { threadsMax: 1, nice: 0 } as const;
/** Two, so that a sandbox that sends the worst bodies has one at most. */
const LONG = { threadsMax: 2, nice: 10 } as const;

/** Time on the event loop for the bodies of one sandbox, in milliseconds; beyond it, they go to a thread. */
export const BODY_LOOP_TIME: BucketLimit = { size: 10, refillPerSecond: 50 };

export interface BodyJob {
  readonly sandboxId: string;
  readonly loopTime: LoopTime;
  /** The check is the only user of this memory. */
  readonly bytes: Buffer;
  readonly check: BodyCheck;
  /** Cancels waiting. A check that a thread has begun is finished first; only then does the promise settle. */
  readonly signal: AbortSignal;
}

export interface CheckedBytes {
  readonly checked: Checked<CheckedBody>;
  /** The body, whose memory may have moved. Empty if a thread was lost with it. */
  readonly bytes: Buffer;
  readonly where: 'loop' | 'thread';
}

type Threads = TurnThreads<BodyRequest, BodyAnswer>;

export class BodyChecker {
  readonly #limits: CheckerLimits;
  readonly #short: Threads;
  readonly #long: Threads;

  constructor(options: { readonly clock: Clock; readonly log: Log; readonly limits?: Partial<CheckerLimits> }) {
    const { clock, log } = options;
    const limits = { ...CHECKER_LIMITS, ...options.limits };
    const path = modulePath('./body-worker.ts', import.meta.url);
    const open = (own: typeof SHORT | typeof LONG): Threads =>
      new TurnThreads({ clock, log, limits: { ...limits, ...own }, name: 'bodies', path });
    this.#limits = limits;
    this.#short = open(SHORT);
    this.#long = open(LONG);
  }

  get waiting(): number {
    return this.#short.waiting + this.#long.waiting;
  }

  get threads(): number {
    return this.#short.size + this.#long.size;
  }

  /** @throws the signal's reason, if the body was still waiting */
  async check(job: BodyJob): Promise<CheckedBytes> {
    const { bytes, check, loopTime, signal } = job;
    const { loopBytesMax, shortBytesMax } = this.#limits;
    const size = bytes.length + (check.kept?.characters ?? 0);
    if (bytes.length === 0 || (size <= loopBytesMax && loopTime.isOpen)) {
      const checked = loopTime.run(() => checkBody(bytes, check));
      return { checked, bytes, where: 'loop' };
    }
    signal.throwIfAborted();
    return await inThread(size <= shortBytesMax ? this.#short : this.#long, job);
  }

  async close(): Promise<void> {
    await Promise.all([this.#short.close(), this.#long.close()]);
  }
}

async function inThread(threads: Threads, { sandboxId, bytes, check, signal }: BodyJob): Promise<CheckedBytes> {
  const transfer = [bytes.buffer as ArrayBuffer];
  try {
    const answer = await threads.run({ sandboxId, request: { bytes, check }, transfer, signal });
    const { buffer, byteOffset, byteLength } = answer.bytes;
    const moved = Buffer.from(buffer, byteOffset, byteLength);
    return { checked: answer.checked, bytes: moved, where: 'thread' };
  } catch (error) {
    if (!(error instanceof ThreadError)) throw error;
    return { checked: REFUSALS[error.code], bytes: Buffer.alloc(0), where: 'thread' };
  }
}

const REFUSALS: Readonly<Record<ThreadErrorCode, Checked<never>>> = {
  busy: refused(503, 'body_check_busy', 'The host could not check the request in time. Retry later.', {
    retryAfterSeconds: 2,
  }),
  out_of_memory: refused(413, 'body_too_complex', 'The body takes too much memory to check. Send fewer values.'),
  failed: refused(500, 'internal_error', "The inference bridge failed. See the host's log for the cause."),
};

/** A thread returns the bytes as a plain `Uint8Array`. */
export const bufferOf = ({ buffer, byteOffset, byteLength }: Uint8Array): Buffer =>
  Buffer.from(buffer, byteOffset, byteLength);
