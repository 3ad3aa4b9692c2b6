/**
 * Checks bodies without holding up the event loop, which all sandboxes share (io).
 *
 *     small, and the sandbox has loop time left ─► here
 *     otherwise ─► queue, sandboxes take turns ─► one of two threads, one body of a sandbox at a time
 *
 * A thread starts at the first body for it and ends when idle. If it runs out of memory or time, only its body is
 * refused.
 */
import { Worker } from 'node:worker_threads';
import type { Clock } from '../base/clock.ts';
import { describeError, errorCode } from '../base/errors.ts';
import { FairQueue } from '../base/fair-queue.ts';
import type { Log } from '../base/log.ts';
import type { LoopTime } from '../base/loop-time.ts';
import { modulePath } from '../base/module-path.ts';
import type { BucketLimit } from '../base/token-bucket.ts';
import { KIB } from '../base/units.ts';
import type { WorkerAnswer, WorkerRequest } from './body-worker.ts';
import { type BodyCheck, type CheckedBody, checkBody } from './check-body.ts';
import { type Checked, refused } from './refusal.ts';

export interface CheckerLimits {
  /** Larger bodies go to a thread; the worst of this size takes 2 ms. */
  readonly loopBytesMax: number;
  readonly threadsMax: number;
  /** From the arrival of a body to its verdict; longer gets 503. */
  readonly checkMsMax: number;
  /** Heap of a thread, MiB; a body that needs more gets 413. */
  readonly heapMibMax: number;
  /** A thread without a body for so long ends. */
  readonly threadIdleMs: number;
}

export const CHECKER_LIMITS: CheckerLimits = {
  loopBytesMax: 16 * KIB,
  threadsMax: 2,
  checkMsMax: 30_000,
  heapMibMax: 512,
  threadIdleMs: 30_000,
};

/** For the bodies of one sandbox on the event loop, in milliseconds; beyond it, they go to a thread. */
export const BODY_LOOP_TIME: BucketLimit = { size: 20, refillPerSecond: 50 };

export interface CheckedBytes {
  readonly checked: Checked<CheckedBody>;
  /** The body, whose memory may have moved. Empty if a thread was lost with it. */
  readonly bytes: Buffer;
  readonly where: 'loop' | 'thread';
}

interface BodyJob {
  readonly sandboxId: string;
  /** The sandbox's own. */
  readonly loopTime: LoopTime;
  /** The only user of its memory. */
  readonly bytes: Buffer;
  readonly check: BodyCheck;
  /** Ends a wait. A body that a thread has begun is finished, and the promise settles then. */
  readonly signal: AbortSignal;
}

interface QueuedJob extends BodyJob {
  readonly settle: (result: CheckedBytes) => void;
  readonly fail: (reason: unknown) => void;
}

interface Thread {
  readonly worker: Worker;
  job: QueuedJob | undefined;
  cancelIdle: () => void;
}

export class BodyChecker {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #limits: CheckerLimits;
  /** One body of a sandbox at a time: the other thread is for others. */
  readonly #queue = new FairQueue<QueuedJob>(1);
  readonly #threads = new Set<Thread>();
  #isClosed = false;

  constructor(options: {
    readonly clock: Clock;
    readonly log: Log;
    readonly limits?: Partial<CheckerLimits>;
  }) {
    this.#clock = options.clock;
    this.#log = options.log;
    this.#limits = { ...CHECKER_LIMITS, ...options.limits };
  }

  /** Bodies that wait for a thread. */
  get waiting(): number {
    return this.#queue.size;
  }

  get threads(): number {
    return this.#threads.size;
  }

  /** @throws the signal's reason, if the body was still waiting */
  async check(job: BodyJob): Promise<CheckedBytes> {
    const { bytes, check, loopTime, signal } = job;
    const isSmall = bytes.length <= this.#limits.loopBytesMax;
    if (isSmall && loopTime.isOpen) {
      const checked = loopTime.run(() => checkBody(bytes, check));
      return { checked, bytes, where: 'loop' };
    }
    signal.throwIfAborted();
    return await this.#enqueue(job);
  }

  /** Ends the threads; bodies in them and in the queue are refused. */
  async close(): Promise<void> {
    this.#isClosed = true;
    const threads = [...this.#threads];
    for (const thread of threads) this.#lose(thread, BUSY);
    for (let next = this.#queue.next(); next !== undefined; next = this.#queue.next())
      next.job.settle(refusedBytes(BUSY));
    await Promise.all(threads.map(({ worker }) => worker.terminate()));
  }

  #enqueue(job: BodyJob): Promise<CheckedBytes> {
    const { promise, resolve, reject } = Promise.withResolvers<CheckedBytes>();
    const stop = (): void => {
      cancelTimer();
      job.signal.removeEventListener('abort', onAbort);
    };
    const queued: QueuedJob = {
      ...job,
      settle: (result) => {
        stop();
        resolve(result);
      },
      fail: (reason) => {
        stop();
        reject(reason);
      },
    };
    const onAbort = (): void => {
      if (this.#queue.remove(job.sandboxId, queued)) queued.fail(job.signal.reason);
    };
    const cancelTimer = this.#clock.after(this.#limits.checkMsMax, () => this.#onLate(queued));
    job.signal.addEventListener('abort', onAbort, { once: true });
    this.#queue.push(job.sandboxId, queued);
    this.#assign();
    return promise;
  }

  #assign(): void {
    for (;;) {
      const idle = [...this.#threads].find(({ job }) => job === undefined);
      const mayStart = !this.#isClosed && this.#threads.size < this.#limits.threadsMax;
      if (idle === undefined && !mayStart) return;
      const next = this.#queue.next();
      if (next === undefined) return;
      const thread = idle ?? this.#start();
      thread.cancelIdle();
      thread.job = next.job;
      const { bytes, check } = next.job;
      const request: WorkerRequest = { bytes, check };
      thread.worker.postMessage(request, [bytes.buffer as ArrayBuffer]);
    }
  }

  #start(): Thread {
    const worker = new Worker(modulePath('./body-worker.ts', import.meta.url), {
      name: 'bodies',
      resourceLimits: { maxOldGenerationSizeMb: this.#limits.heapMibMax },
    });
    worker.unref();
    const thread: Thread = { worker, job: undefined, cancelIdle: () => undefined };
    this.#threads.add(thread);
    worker.on('message', (answer: WorkerAnswer) => this.#onAnswer(thread, answer));
    worker.on('error', (error: Error) => {
      const isFull = errorCode(error) === 'ERR_WORKER_OUT_OF_MEMORY';
      if (!isFull) this.#log.error('check a body', { error: describeError(error) });
      this.#lose(thread, isFull ? TOO_COMPLEX : INTERNAL);
    });
    worker.once('exit', () => this.#lose(thread, INTERNAL));
    return thread;
  }

  #onAnswer(thread: Thread, { bytes, checked }: WorkerAnswer): void {
    const { job } = thread;
    if (job === undefined) return;
    thread.job = undefined;
    this.#queue.done(job.sandboxId);
    const { buffer, byteOffset, byteLength } = bytes;
    job.settle({ checked, bytes: Buffer.from(buffer, byteOffset, byteLength), where: 'thread' });
    thread.cancelIdle = this.#clock.after(this.#limits.threadIdleMs, () => this.#end(thread));
    this.#assign();
  }

  #onLate(job: QueuedJob): void {
    const thread = [...this.#threads].find((each) => each.job === job);
    if (thread !== undefined) this.#lose(thread, BUSY);
    else if (this.#queue.remove(job.sandboxId, job)) job.settle(refusedBytes(BUSY));
  }

  /** A thread that no longer answers. Idempotent. */
  #lose(thread: Thread, why: Checked<never>): void {
    if (!this.#threads.has(thread)) return;
    this.#end(thread);
    const { job } = thread;
    thread.job = undefined;
    if (job !== undefined) {
      this.#queue.done(job.sandboxId);
      job.settle(refusedBytes(why));
    }
    if (!this.#isClosed) this.#assign();
  }

  #end(thread: Thread): void {
    this.#threads.delete(thread);
    thread.cancelIdle();
    void thread.worker.terminate();
  }
}

const refusedBytes = (checked: Checked<never>): CheckedBytes => ({
  checked,
  bytes: Buffer.alloc(0),
  where: 'thread',
});

const BUSY = refused(
  503,
  'body_check_busy',
  'The host could not check the request in time. Retry later.',
  { retryAfterSeconds: 2 },
);
const TOO_COMPLEX = refused(
  413,
  'body_too_complex',
  'The body takes too much memory to check. Send fewer values.',
);
const INTERNAL = refused(
  500,
  'internal_error',
  "The inference bridge failed. See the host's log for the cause.",
);
