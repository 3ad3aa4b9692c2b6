/**
 * Admission of VM starts. A start takes a processor and memory for a moment: more concurrent starts than processors
 * slow all of them down, and more than the free memory cause an OOM kill.
 *
 *     run(request, start) ──► normal ─┐                        concurrency
 *                             (fair)  ├─► first ── memory? ──► start ──► result
 *     refills of a pool ────► low ────┘     │
 *                                           └─ meanwhile: deadline, cancelled, closed ─► refused
 *                                              a `Handover` delivers a result ─────────► result, without a start
 *
 * The first request waits until its memory is free and is never overtaken, so a large one is not starved. A start
 * reserves its memory until it ends; by then the used part shows in the available memory. In between it counts
 * twice, on the safe side. Memory that several starts share and the first one brings is reserved once for all of them.
 *
 * No I/O: memory, time and the starts themselves are injected.
 */
import { assert } from '../../base/assert.ts';
import type { Clock } from '../../base/clock.ts';
import { FairQueue } from '../../base/fairness/fair-queue.ts';
import { BusyError, SandboxError } from '../contract/errors.ts';
import type { SharedNeed } from '../contract/parts.ts';
import { RESERVE_MIB } from '../memory/host-guard.ts';

/** Maximum number of waiting requests per tenant and priority. */
export const WAITING_MAX = 512;
/** Maximum for all tenants together, so that one tenant that fills its share leaves room for others. */
const WAITING_ALL_MAX = 8 * WAITING_MAX;
/** Interval of memory checks: there is no notification of freed memory. */
export const MEMORY_POLL_MS = 250;
/** Bounds of the retry delay of a refused request. */
export const RETRY_MS_MIN = 250;
export const RETRY_MS_MAX = 60_000;
/** Lower bound if memory is short: when a sandbox will free some is unknown. */
export const RETRY_MEMORY_MS_MIN = 5000;
/** Assumed time of a start before the first measurement. */
const START_MS_GUESS = 1000;
const START_MS_WEIGHT = 0.25;

export interface StartQueueOptions {
  /** Maximum concurrent starts: the host's number of processors. */
  readonly concurrency: number;
  /** Total memory of the host in MiB; a request that can never fit is refused at once. */
  readonly totalMib: number;
  /** Available memory, MiB (`MemAvailable`). Called often; does not throw. */
  readonly availableMib: () => number;
  readonly clock: Clock;
  /** Default `RESERVE_MIB`. */
  readonly reserveMib?: number | undefined;
  /** Maximum number of waiting requests of all tenants. Default: eight times `WAITING_MAX`. */
  readonly waitingMax?: number | undefined;
}

export interface StartRequest<T> {
  /** Tenants take turns. */
  readonly tenant: string;
  /** Expected memory use in MiB. */
  readonly memoryMib: number;
  /** Maximum memory use in MiB: a smaller host refuses the request. Default `memoryMib`. */
  readonly sizeMib?: number | undefined;
  /** Memory needed in addition, once for all starts that share it. */
  readonly shared?: SharedNeed | undefined;
  /** True to resume a paused sandbox. Default: a new one. */
  readonly isResume?: boolean | undefined;
  /** Timeout in the queue in milliseconds; `null`: none. */
  readonly queueTimeoutMs: number | null;
  /** `low` starts only if no `normal` request waits. Default `normal`. */
  readonly priority?: 'normal' | 'low' | undefined;
  readonly signal?: AbortSignal | undefined;
  /** May deliver the result while the request waits, instead of a start. */
  readonly handover?: Handover<T> | undefined;
}

/** Hands values that become ready elsewhere to waiting requests; fair like the queue. */
export class Handover<T> {
  readonly #line = new FairQueue<(value: T) => void>();

  /** @returns whether a request took it */
  offer(value: T): boolean {
    const give = this.#line.take();
    give?.(value);
    return give !== undefined;
  }

  /** Calls `give` at most once. Returns a function that cancels the wait. */
  wait(tenant: string, give: (value: T) => void): () => void {
    this.#line.add(tenant, give);
    return () => this.#line.delete(tenant, give);
  }
}

interface Needed {
  readonly memoryMib: number;
  readonly shared: SharedNeed | undefined;
}

interface Waiting extends Needed {
  readonly isResume: boolean;
  begin(): void;
  refuse(error: SandboxError): void;
}

interface Running extends Needed {
  readonly beganMs: number;
}

export class StartQueue {
  readonly #options: StartQueueOptions;
  readonly #reserveMib: number;
  readonly #waitingMax: number;
  readonly #queues = { normal: new FairQueue<Waiting>(), low: new FairQueue<Waiting>() };
  /** Oldest first. */
  readonly #running = new Set<Running>();
  #reservedMib = 0;
  #startMs = START_MS_GUESS;
  #cancelPoll: (() => void) | undefined;
  #closed: PromiseWithResolvers<void> | undefined;
  #refusal = closed();
  /** Why requests are refused instead of waiting for memory; `null` if they wait. */
  #shortage: string | null = null;
  /** If true, requests wait however much memory is free. */
  #isHeld = false;
  /** The request at the head of the queue, while it lacks memory. */
  #lacking: { readonly first: Waiting; readonly sinceMs: number } | undefined;

  constructor(options: StartQueueOptions) {
    assert(options.concurrency >= 1, 'a queue without a place to start');
    this.#options = options;
    this.#reserveMib = options.reserveMib ?? RESERVE_MIB;
    this.#waitingMax = options.waitingMax ?? WAITING_ALL_MAX;
  }

  /**
   * Calls `start` once the request is admitted, and settles as it does.
   * @throws SandboxError `spec_invalid`: more memory than the host has; `cancelled`: the signal aborted, or the queue
   * is closed
   * @throws BusyError the queue is full, or the request timed out in it
   */
  async run<T>(request: StartRequest<T>, start: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const line = this.#queues[request.priority ?? 'normal'];
    this.#admit(request, line);
    const { tenant, memoryMib, shared, isResume = false, queueTimeoutMs, handover } = request;
    const signal = request.signal ?? new AbortController().signal;
    return await new Promise<T>((resolve, reject) => {
      const waiting: Waiting = {
        memoryMib,
        shared,
        isResume,
        begin: () => {
          leave();
          resolve(this.#start({ memoryMib, shared }, () => start(signal)));
        },
        refuse: (error) => {
          leave();
          reject(error);
          this.#dispatch();
        },
      };
      const leaveHandover = handover?.wait(tenant, (value) => {
        leave();
        resolve(value);
        this.#dispatch();
      });
      const cancelTimer =
        queueTimeoutMs === null
          ? undefined
          : this.#options.clock.after(queueTimeoutMs, () =>
              waiting.refuse(this.#busy(`not started within ${queueTimeoutMs} ms`)),
            );
      const onAbort = (): void => waiting.refuse(cancelled(signal.reason));
      const leave = (): void => {
        line.delete(tenant, waiting);
        leaveHandover?.();
        cancelTimer?.();
        signal.removeEventListener('abort', onAbort);
      };
      signal.addEventListener('abort', onAbort, { once: true });
      line.add(tenant, waiting);
      this.#dispatch();
    });
  }

  stats(): StartQueueStats {
    return {
      running: this.#running.size,
      waiting: this.#queues.normal.size,
      waitingLow: this.#queues.low.size,
      reservedMib: this.#reservedMib + this.#missingMib(),
    };
  }

  /**
   * Refuses waiting and new requests of normal priority while memory is short and can't be freed; growth is refused
   * anyway. `null` lets them wait again.
   * @param shortage a clause for the error
   */
  refuseStarts(shortage: string | null): void {
    this.#shortage = shortage;
    if (shortage === null) {
      this.#dispatch();
      return;
    }
    const line = this.#queues.normal;
    for (let one = line.take(); one !== undefined; one = line.take()) {
      one.refuse(this.#short(shortage));
    }
  }

  /** Starts nothing while memory is being freed for running sandboxes. */
  holdStarts(isHeld: boolean): void {
    const wasHeld = this.#isHeld;
    this.#isHeld = isHeld;
    if (wasHeld && !isHeld) this.#dispatch();
  }

  #short(shortage: string): BusyError {
    const text = `the memory of the host is short: ${shortage}, and at least ${this.#reserveMib} MiB stay free`;
    return new BusyError(text, RETRY_MEMORY_MS_MIN);
  }

  get concurrency(): number {
    return this.#options.concurrency;
  }

  /** Refuses all waiting and new requests. Resolves when no start is under way. @param refusal of the first call counts */
  close(refusal = closed()): Promise<void> {
    if (this.#closed === undefined) {
      this.#closed = Promise.withResolvers();
      this.#refusal = refusal;
      this.#cancelPoll?.();
      for (const line of [this.#queues.normal, this.#queues.low]) {
        for (let one = line.take(); one !== undefined; one = line.take()) one.refuse(refusal);
      }
      if (this.#running.size === 0) this.#closed.resolve();
    }
    return this.#closed.promise;
  }

  /** Throws unless the request may wait. */
  #admit<T>(request: StartRequest<T>, line: FairQueue<Waiting>): void {
    const { tenant, memoryMib, sizeMib = memoryMib, signal } = request;
    if (this.#closed !== undefined) throw this.#refusal;
    if (signal?.aborted) throw cancelled(signal.reason);
    const largestMib = Math.floor(this.#options.totalMib - this.#reserveMib);
    // Also refuses NaN.
    if (!(sizeMib <= largestMib)) {
      const message = `memory: ${sizeMib} MiB; this host has at most ${largestMib} MiB`;
      throw new SandboxError('spec_invalid', message, { remedy: 'ask for less memory' });
    }
    if (this.#shortage !== null && line === this.#queues.normal) throw this.#short(this.#shortage);
    this.#dispatch();
    if (line.size >= this.#waitingMax || line.sizeOf(tenant) >= WAITING_MAX) throw this.#busy('the queue is full');
  }

  /** Starts what can start now. Called whenever a place, memory or the first request may have changed. */
  #dispatch(): void {
    if (this.#closed !== undefined) return;
    while (this.#running.size < this.#options.concurrency) {
      const line = this.#queues.normal.size > 0 ? this.#queues.normal : this.#queues.low;
      const first = line.first();
      if (first === undefined) return;
      if (!this.#fits(first)) {
        if (this.#lacking?.first !== first) this.#lacking = { first, sinceMs: this.#options.clock.now() };
        this.#cancelPoll ??= this.#options.clock.after(MEMORY_POLL_MS, () => {
          this.#cancelPoll = undefined;
          this.#dispatch();
        });
        return;
      }
      this.#lacking = undefined;
      line.take();
      first.begin();
    }
  }

  /** How long the head of the queue has waited for memory, in milliseconds; 0 if it does not, or the queue is empty. */
  get memoryWaitMs(): number {
    const first = this.#queues.normal.first();
    if (first === undefined || first !== this.#lacking?.first) return 0;
    return this.#options.clock.now() - this.#lacking.sinceMs;
  }

  /** Like `memoryWaitMs`, but only if the head is a resume. */
  get resumeWaitMs(): number {
    return this.#queues.normal.first()?.isResume === true ? this.memoryWaitMs : 0;
  }

  /** Memory that is free for sandboxes, MiB; may be negative. */
  get roomMib(): number {
    const reservedMib = this.#reservedMib + this.#missingMib() + this.#reserveMib;
    return this.#options.availableMib() - reservedMib;
  }

  /** Shared memory that starts under way may still bring, each memory once, MiB. */
  #missingMib(): number {
    const needs = new Map<string, SharedNeed>();
    for (const { shared } of this.#running) if (shared !== undefined) needs.set(shared.key, shared);
    return [...needs.values()].reduce((sum, need) => sum + need.missingMib(), 0);
  }

  /**
   * Reserves memory for the growth of a running sandbox until it shows in the available memory.
   * @returns a function that releases it. @throws SandboxError `memory_unavailable`
   */
  reserve(memoryMib: number): () => void {
    const room = this.roomMib;
    if (memoryMib > room) {
      const text = `this host has ${Math.max(0, Math.floor(room))} MiB left for sandboxes`;
      throw new SandboxError('memory_unavailable', text, {
        remedy: 'pause or remove sandboxes, or add memory to the host',
      });
    }
    this.#reservedMib += memoryMib;
    let isHeld = true;
    return () => {
      if (!isHeld) return;
      isHeld = false;
      this.#reservedMib -= memoryMib;
      this.#dispatch();
    };
  }

  #fits({ memoryMib, shared }: Waiting): boolean {
    if (this.#isHeld) return false;
    const isReserved = [...this.#running].some((one) => one.shared?.key === shared?.key);
    const missingMib = shared === undefined || isReserved ? 0 : shared.missingMib();
    return this.roomMib >= memoryMib + missingMib;
  }

  async #start<T>({ memoryMib, shared }: Needed, start: () => Promise<T>): Promise<T> {
    const { clock } = this.#options;
    const running: Running = { memoryMib, shared, beganMs: clock.now() };
    this.#running.add(running);
    this.#reservedMib += memoryMib;
    try {
      return await start();
    } finally {
      this.#running.delete(running);
      this.#reservedMib -= memoryMib;
      this.#startMs += (clock.now() - running.beganMs - this.#startMs) * START_MS_WEIGHT;
      if (this.#running.size === 0) this.#closed?.resolve();
      this.#dispatch();
    }
  }

  #busy(why: string): BusyError {
    const { normal, low } = this.#queues;
    const memoryIsShort = this.#cancelPoll !== undefined;
    const short = memoryIsShort ? ', memory of the host is short' : '';
    const message = `${why}: ${normal.size + low.size} wait, ${this.#running.size} start${short}`;
    const retryMsMin = memoryIsShort ? RETRY_MEMORY_MS_MIN : RETRY_MS_MIN;
    const retryMs = Math.min(Math.max(this.#drainMs(), retryMsMin), RETRY_MS_MAX);
    return new BusyError(message, Math.round(retryMs));
  }

  /**
   * Estimated time to start all waiting requests, milliseconds. A current start that is slower than the average counts.
   */
  #drainMs(): number {
    const [oldest] = this.#running;
    const oldestMs = oldest === undefined ? 0 : this.#options.clock.now() - oldest.beganMs;
    const startMs = Math.max(this.#startMs, oldestMs);
    const ahead = this.#queues.normal.size + this.#running.size;
    return (startMs * ahead) / this.#options.concurrency;
  }
}

export interface StartQueueStats {
  readonly running: number;
  readonly waiting: number;
  readonly waitingLow: number;
  /** Memory reserved by starts and growth under way, MiB. */
  readonly reservedMib: number;
}

function cancelled(cause: unknown): SandboxError {
  return new SandboxError('cancelled', 'the start was canceled in the queue', { cause });
}

function closed(): SandboxError {
  return new SandboxError('cancelled', 'the host is shutting down and starts no sandbox');
}
