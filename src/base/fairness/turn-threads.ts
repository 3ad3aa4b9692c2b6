/**
 * Threads for work of a sandbox's choice that would hold up the event loop. Sandboxes take turns, and each uses at most
 * one thread at a time (I/O).
 *
 *     run(job) ─► queue, round-robin over sandboxes ─► a thread: `serveTurns` of `turn-worker.ts` ─► answer
 *
 * A thread starts at the first job for it and ends when idle. If it runs out of memory or time, only its job fails.
 */
import { Worker } from 'node:worker_threads';
import type { Clock } from '../clock.ts';
import { CodedError, describeError, errorCode } from '../errors.ts';
import type { Log } from '../log.ts';
import { FairQueue } from './fair-queue.ts';
import type { WorkerSetup } from './turn-worker.ts';

export interface ThreadLimits {
  readonly threadsMax: number;
  /** Priority of each thread, like a process's: 0 is normal, 19 the lowest. */
  readonly nice: number;
  /** From the arrival of a job to its answer. */
  readonly workMsMax: number;
  /** Heap of a thread, MiB. */
  readonly heapMibMax: number;
  /** A thread ends after this time without a job. */
  readonly threadIdleMs: number;
}

export type ThreadErrorCode =
  /** The job waited or worked for longer than the limit, or the threads are closed. */
  | 'busy'
  | 'out_of_memory'
  /** The work threw, or its thread ended. */
  | 'failed';

export class ThreadError extends CodedError<ThreadErrorCode> {}

export interface ThreadJob<Request> {
  readonly sandboxId: string;
  readonly request: Request;
  /** Memory that is transferred to the thread. */
  readonly transfer?: readonly ArrayBuffer[];
  /** Ends a wait. A job that a thread has started is finished, and the promise settles then. */
  readonly signal: AbortSignal;
}

interface QueuedJob<Request, Answer> extends ThreadJob<Request> {
  readonly settle: (answer: Answer) => void;
  readonly fail: (reason: unknown) => void;
}

interface Thread<Request, Answer> {
  readonly worker: Worker;
  job: QueuedJob<Request, Answer> | undefined;
  cancelIdle: () => void;
}

export class TurnThreads<Request, Answer> {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #limits: ThreadLimits;
  readonly #name: string;
  readonly #path: string;
  readonly #queue = new FairQueue<QueuedJob<Request, Answer>>();
  readonly #threads = new Set<Thread<Request, Answer>>();
  #isClosed = false;

  /** @param options.path the module of the threads, which calls `serveTurns` */
  constructor(options: {
    readonly clock: Clock;
    readonly log: Log;
    readonly limits: ThreadLimits;
    readonly name: string;
    readonly path: string;
  }) {
    this.#clock = options.clock;
    this.#log = options.log;
    this.#limits = options.limits;
    this.#name = options.name;
    this.#path = options.path;
  }

  get waiting(): number {
    return this.#queue.size;
  }

  get size(): number {
    return this.#threads.size;
  }

  /** @throws ThreadError, and the signal's reason if the job was still waiting */
  run(job: ThreadJob<Request>): Promise<Answer> {
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    const stop = (): void => {
      cancelTimer();
      job.signal.removeEventListener('abort', onAbort);
    };
    const queued: QueuedJob<Request, Answer> = {
      ...job,
      settle: (answer) => {
        stop();
        resolve(answer);
      },
      fail: (reason) => {
        stop();
        reject(reason);
      },
    };
    const onAbort = (): void => {
      if (this.#queue.delete(job.sandboxId, queued)) queued.fail(job.signal.reason);
    };
    const cancelTimer = this.#clock.after(this.#limits.workMsMax, () => this.#onLate(queued));
    job.signal.addEventListener('abort', onAbort, { once: true });
    this.#queue.add(job.sandboxId, queued);
    this.#assign();
    return promise;
  }

  /** Ends the threads; jobs in them and in the queue fail. */
  async close(): Promise<void> {
    this.#isClosed = true;
    const threads = [...this.#threads];
    for (const thread of threads) this.#lose(thread, 'busy');
    for (let next = this.#queue.take(); next !== undefined; next = this.#queue.take()) next.fail(this.#error('busy'));
    await Promise.all(threads.map(({ worker }) => worker.terminate()));
  }

  #assign(): void {
    for (;;) {
      const idle = [...this.#threads].find(({ job }) => job === undefined);
      const mayStart = !this.#isClosed && this.#threads.size < this.#limits.threadsMax;
      if (idle === undefined && !mayStart) return;
      const next = this.#queue.take((sandboxId) => !this.#isServing(sandboxId));
      if (next === undefined) return;
      const thread = idle ?? this.#start();
      thread.cancelIdle();
      thread.job = next;
      thread.worker.postMessage(next.request, [...(next.transfer ?? [])]);
    }
  }

  #isServing(sandboxId: string): boolean {
    return [...this.#threads].some(({ job }) => job?.sandboxId === sandboxId);
  }

  #start(): Thread<Request, Answer> {
    const { heapMibMax, nice } = this.#limits;
    const setup: WorkerSetup = { nice };
    const worker = new Worker(this.#path, {
      name: this.#name,
      workerData: setup,
      resourceLimits: { maxOldGenerationSizeMb: heapMibMax },
    });
    worker.unref();
    const thread: Thread<Request, Answer> = { worker, job: undefined, cancelIdle: () => undefined };
    this.#threads.add(thread);
    worker.on('message', (answer: Answer) => this.#onAnswer(thread, answer));
    worker.on('error', (error: Error) => {
      const isFull = errorCode(error) === 'ERR_WORKER_OUT_OF_MEMORY';
      const fields = { thread: this.#name, error: describeError(error) };
      if (!isFull) this.#log.error('a thread failed', fields);
      this.#lose(thread, isFull ? 'out_of_memory' : 'failed');
    });
    worker.once('exit', () => this.#lose(thread, 'failed'));
    return thread;
  }

  #onAnswer(thread: Thread<Request, Answer>, answer: Answer): void {
    const { job } = thread;
    if (job === undefined) return;
    thread.job = undefined;
    job.settle(answer);
    thread.cancelIdle = this.#clock.after(this.#limits.threadIdleMs, () => this.#end(thread));
    this.#assign();
  }

  #onLate(job: QueuedJob<Request, Answer>): void {
    const thread = [...this.#threads].find((each) => each.job === job);
    if (thread !== undefined) this.#lose(thread, 'busy');
    else if (this.#queue.delete(job.sandboxId, job)) job.fail(this.#error('busy'));
  }

  /** Drops a thread that no longer answers. Idempotent. */
  #lose(thread: Thread<Request, Answer>, code: ThreadErrorCode): void {
    if (!this.#threads.has(thread)) return;
    this.#end(thread);
    const { job } = thread;
    thread.job = undefined;
    job?.fail(this.#error(code));
    if (!this.#isClosed) this.#assign();
  }

  #end(thread: Thread<Request, Answer>): void {
    this.#threads.delete(thread);
    thread.cancelIdle();
    void thread.worker.terminate();
  }

  #error(code: ThreadErrorCode): ThreadError {
    return new ThreadError(code, `thread ${this.#name}: ${TEXTS[code]}`);
  }
}

const TEXTS: Readonly<Record<ThreadErrorCode, string>> = {
  busy: 'the work was not done in time',
  out_of_memory: 'the work takes too much memory',
  failed: 'the work failed',
};
