/** Threads that check bodies, of which each sandbox has at most one at a time (io). */
import { Worker } from 'node:worker_threads';
import type { Clock } from '../base/clock.ts';
import { describeError, errorCode } from '../base/errors.ts';
import { FairQueue } from '../base/fairness/fair-queue.ts';
import type { Log } from '../base/log.ts';
import { modulePath } from '../base/module-path.ts';
import type { WorkerAnswer, WorkerRequest, WorkerSetup } from './body-worker.ts';
import type { BodyCheck, CheckedBody } from './check-body.ts';
import { type Checked, refused } from './refusal.ts';

export interface ThreadLimits {
  readonly threadsMax: number;
  /** Of each thread, as of a process: 0 is usual, 19 the last. */
  readonly nice: number;
  /** From the arrival of a body to its verdict; longer gets 503. */
  readonly checkMsMax: number;
  /** Heap of a thread, MiB; a body that needs more gets 413. */
  readonly heapMibMax: number;
  /** A thread without a body for so long ends. */
  readonly threadIdleMs: number;
}

export interface ThreadResult {
  readonly checked: Checked<CheckedBody>;
  /** The body, whose memory may have moved. Empty if a thread was lost with it. */
  readonly bytes: Buffer;
}

export interface ThreadJob {
  readonly sandboxId: string;
  /** The only user of its memory. */
  readonly bytes: Buffer;
  readonly check: BodyCheck;
  /** Ends a wait. A body that a thread has begun is finished, and the promise settles then. */
  readonly signal: AbortSignal;
}

interface QueuedJob extends ThreadJob {
  readonly settle: (result: ThreadResult) => void;
  readonly fail: (reason: unknown) => void;
}

interface Thread {
  readonly worker: Worker;
  job: QueuedJob | undefined;
  cancelIdle: () => void;
}

export class CheckThreads {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #limits: ThreadLimits;
  readonly #queue = new FairQueue<QueuedJob>();
  readonly #threads = new Set<Thread>();
  #isClosed = false;

  constructor(clock: Clock, log: Log, limits: ThreadLimits) {
    this.#clock = clock;
    this.#log = log;
    this.#limits = limits;
  }

  /** Bodies that wait for a thread. */
  get waiting(): number {
    return this.#queue.size;
  }

  get size(): number {
    return this.#threads.size;
  }

  /** @throws the signal's reason, if the body was still waiting */
  check(job: ThreadJob): Promise<ThreadResult> {
    const { promise, resolve, reject } = Promise.withResolvers<ThreadResult>();
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
      if (this.#queue.delete(job.sandboxId, queued)) queued.fail(job.signal.reason);
    };
    const cancelTimer = this.#clock.after(this.#limits.checkMsMax, () => this.#onLate(queued));
    job.signal.addEventListener('abort', onAbort, { once: true });
    this.#queue.add(job.sandboxId, queued);
    this.#assign();
    return promise;
  }

  /** Ends the threads; bodies in them and in the queue are refused. */
  async close(): Promise<void> {
    this.#isClosed = true;
    const threads = [...this.#threads];
    for (const thread of threads) this.#lose(thread, BUSY);
    for (let next = this.#queue.take(); next !== undefined; next = this.#queue.take())
      next.settle(refusedBytes(BUSY));
    await Promise.all(threads.map(({ worker }) => worker.terminate()));
  }

  #assign(): void {
    for (;;) {
      const idle = [...this.#threads].find(({ job }) => job === undefined);
      const mayStart = !this.#isClosed && this.#threads.size < this.#limits.threadsMax;
      if (idle === undefined && !mayStart) return;
      const next = this.#queue.take((sandboxId) => !this.#isChecking(sandboxId));
      if (next === undefined) return;
      const thread = idle ?? this.#start();
      thread.cancelIdle();
      thread.job = next;
      const { bytes, check } = next;
      const request: WorkerRequest = { bytes, check };
      thread.worker.postMessage(request, [bytes.buffer as ArrayBuffer]);
    }
  }

  #isChecking(sandboxId: string): boolean {
    return [...this.#threads].some(({ job }) => job?.sandboxId === sandboxId);
  }

  #start(): Thread {
    const { heapMibMax, nice } = this.#limits;
    const setup: WorkerSetup = { nice };
    const worker = new Worker(modulePath('./body-worker.ts', import.meta.url), {
      name: 'bodies',
      workerData: setup,
      resourceLimits: { maxOldGenerationSizeMb: heapMibMax },
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
    const { buffer, byteOffset, byteLength } = bytes;
    job.settle({ checked, bytes: Buffer.from(buffer, byteOffset, byteLength) });
    thread.cancelIdle = this.#clock.after(this.#limits.threadIdleMs, () => this.#end(thread));
    this.#assign();
  }

  #onLate(job: QueuedJob): void {
    const thread = [...this.#threads].find((each) => each.job === job);
    if (thread !== undefined) this.#lose(thread, BUSY);
    else if (this.#queue.delete(job.sandboxId, job)) job.settle(refusedBytes(BUSY));
  }

  /** A thread that no longer answers. Idempotent. */
  #lose(thread: Thread, why: Checked<never>): void {
    if (!this.#threads.has(thread)) return;
    this.#end(thread);
    const { job } = thread;
    thread.job = undefined;
    job?.settle(refusedBytes(why));
    if (!this.#isClosed) this.#assign();
  }

  #end(thread: Thread): void {
    this.#threads.delete(thread);
    thread.cancelIdle();
    void thread.worker.terminate();
  }
}

const refusedBytes = (checked: Checked<never>): ThreadResult => ({
  checked,
  bytes: Buffer.alloc(0),
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
