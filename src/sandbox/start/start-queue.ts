/**
 * Who may start when. Starting a VM takes a processor and memory for a moment; more starts at once than the
 * host has processors make all of them slower, and more than it has memory make it kill something.
 *
 *     run(request, start) ──► normal ─┐                        concurrency
 *                             (fair)  ├─► first ── memory? ──► start ──► result
 *     refills of a pool ────► low ────┘     │
 *                                           └─ meanwhile: deadline, cancelled, closed ─► refused
 *                                              a `Handover` has what it wants        ─► result, without a start
 *
 * The first waits until its memory is there and nobody passes it, so a large one is not starved. A start
 * reserves its memory until it ends; what it has used by then shows in what is available. In between that
 * part counts twice, on the safe side.
 *
 * No I/O here: memory, time and the starts themselves come in.
 */
import { assert } from '../../base/assert.ts';
import type { Clock } from '../../base/clock.ts';
import { BusyError, SandboxError } from '../errors.ts';
import { FairQueue } from './fair-queue.ts';

/** Requests that may wait for their turn, in each priority. */
export const WAITING_MAX = 512;
/** Memory that starts leave to the host. */
export const RESERVE_MIB = 512;
/** How soon freed memory is noticed: nothing tells when it grows. */
export const MEMORY_POLL_MS = 250;
/** Bounds of the time that a refused one is told to wait. */
export const RETRY_MS_MIN = 250;
export const RETRY_MS_MAX = 60_000;
/** The same where memory is short: it comes back when a sandbox ends, which nobody can foresee. */
export const RETRY_MEMORY_MS_MIN = 5000;
/** Time of a start before one has been seen. */
const START_MS_GUESS = 1000;
/** Weight of the newest start in the average of their times. */
const START_MS_WEIGHT = 0.25;

export interface StartQueueOptions {
  /** Starts at once; as many as the host has processors. */
  readonly concurrency: number;
  /** All memory of the host, MiB; what no host state could ever give is refused at once. */
  readonly totalMib: number;
  /** Memory that can be used now, MiB (`MemAvailable`). Called often; does not throw. */
  readonly availableMib: () => number;
  readonly clock: Clock;
  /** Default `RESERVE_MIB`. */
  readonly reserveMib?: number | undefined;
  /** Default `WAITING_MAX`. */
  readonly waitingMax?: number | undefined;
}

export interface StartRequest<T> {
  /** For whom; each gets his turn. */
  readonly tenant: string;
  readonly memoryMib: number;
  /** How long it may wait for its turn, milliseconds; null: until it is cancelled. */
  readonly queueTimeoutMs: number | null;
  /** `low` goes when no `normal` one waits. Default `normal`. */
  readonly priority?: 'normal' | 'low' | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Where the result may come from instead, while it waits. */
  readonly handover?: Handover<T> | undefined;
}

/** Gives a value that has become ready elsewhere to one who waits for such; fair like the queue. */
export class Handover<T> {
  readonly #line = new FairQueue<(value: T) => void>();

  /** @returns whether somebody took it. */
  offer(value: T): boolean {
    const give = this.#line.take();
    give?.(value);
    return give !== undefined;
  }

  /** `give` is called at most once. Returns how to leave. */
  wait(tenant: string, give: (value: T) => void): () => void {
    this.#line.add(tenant, give);
    return () => this.#line.delete(tenant, give);
  }
}

interface Waiting {
  readonly memoryMib: number;
  begin(): void;
  refuse(error: SandboxError): void;
}

interface Running {
  readonly memoryMib: number;
  readonly beganMs: number;
}

export class StartQueue {
  readonly #options: StartQueueOptions;
  readonly #reserveMib: number;
  readonly #waitingMax: number;
  readonly #lines = { normal: new FairQueue<Waiting>(), low: new FairQueue<Waiting>() };
  /** Oldest first. */
  readonly #running = new Set<Running>();
  #reservedMib = 0;
  #startMs = START_MS_GUESS;
  #cancelPoll: (() => void) | undefined;
  #closed: PromiseWithResolvers<void> | undefined;

  constructor(options: StartQueueOptions) {
    assert(options.concurrency >= 1, 'a queue without a place to start');
    this.#options = options;
    this.#reserveMib = options.reserveMib ?? RESERVE_MIB;
    this.#waitingMax = options.waitingMax ?? WAITING_MAX;
  }

  /**
   * Calls `start` when its turn has come, and settles as that does.
   * @throws SandboxError `spec_invalid` more memory than the host could ever give; `cancelled` by the
   *   signal, or the queue is closed
   * @throws BusyError the queue is full, or the turn did not come in time
   */
  async run<T>(request: StartRequest<T>, start: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const line = this.#lines[request.priority ?? 'normal'];
    this.#admit(request, line);
    const { tenant, memoryMib, queueTimeoutMs, handover } = request;
    const signal = request.signal ?? new AbortController().signal;
    return await new Promise<T>((resolve, reject) => {
      const waiting: Waiting = {
        memoryMib,
        begin: () => {
          leave();
          resolve(this.#start(memoryMib, () => start(signal)));
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
              waiting.refuse(this.#busy(`no turn within ${queueTimeoutMs} ms`)),
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
      waiting: this.#lines.normal.size,
      waitingLow: this.#lines.low.size,
      reservedMib: this.#reservedMib,
    };
  }

  /** Refuses all that wait and all that come. Resolves when no start is under way any more. */
  close(): Promise<void> {
    if (this.#closed === undefined) {
      this.#closed = Promise.withResolvers();
      this.#cancelPoll?.();
      for (const line of [this.#lines.normal, this.#lines.low]) {
        for (let one = line.take(); one !== undefined; one = line.take()) one.refuse(closed());
      }
      if (this.#running.size === 0) this.#closed.resolve();
    }
    return this.#closed.promise;
  }

  /** Throws unless the request may wait. */
  #admit<T>({ memoryMib, signal }: StartRequest<T>, line: FairQueue<Waiting>): void {
    if (this.#closed !== undefined) throw closed();
    if (signal?.aborted) throw cancelled(signal.reason);
    const largestMib = Math.floor(this.#options.totalMib - this.#reserveMib);
    // Written so that NaN is refused as well.
    if (!(memoryMib <= largestMib)) {
      const message = `memory: ${memoryMib} MiB; this host can give at most ${largestMib} MiB`;
      throw new SandboxError('spec_invalid', message, { remedy: 'ask for less memory' });
    }
    this.#dispatch();
    if (line.size >= this.#waitingMax) throw this.#busy('the queue is full');
  }

  /** Begins what may begin now. Called whenever a place, memory or the first in line may have changed. */
  #dispatch(): void {
    if (this.#closed !== undefined) return;
    while (this.#running.size < this.#options.concurrency) {
      const line = this.#lines.normal.size > 0 ? this.#lines.normal : this.#lines.low;
      const first = line.first();
      if (first === undefined) return;
      if (!this.#fits(first)) {
        this.#cancelPoll ??= this.#options.clock.after(MEMORY_POLL_MS, () => {
          this.#cancelPoll = undefined;
          this.#dispatch();
        });
        return;
      }
      line.take();
      first.begin();
    }
  }

  /** Memory that can be given away now, MiB; below 0 where too much is. */
  get roomMib(): number {
    return this.#options.availableMib() - this.#reservedMib - this.#reserveMib;
  }

  /**
   * What a sandbox that runs is given, kept from all others until it has it; then it shows in what is available.
   * @returns how to let go of it. @throws SandboxError `memory_unavailable`
   */
  reserve(memoryMib: number): () => void {
    const room = this.roomMib;
    if (memoryMib > room) {
      const text = `this host has ${Math.max(0, Math.floor(room))} MiB left for sandboxes`;
      throw new SandboxError('memory_unavailable', text);
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

  #fits({ memoryMib }: Waiting): boolean {
    return this.roomMib >= memoryMib;
  }

  async #start<T>(memoryMib: number, start: () => Promise<T>): Promise<T> {
    const { clock } = this.#options;
    const running: Running = { memoryMib, beganMs: clock.now() };
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
    const { normal, low } = this.#lines;
    const memoryIsShort = this.#cancelPoll !== undefined;
    const short = memoryIsShort ? ', memory of the host is short' : '';
    const message = `${why}: ${normal.size + low.size} wait, ${this.#running.size} start${short}`;
    const retryMsMin = memoryIsShort ? RETRY_MEMORY_MS_MIN : RETRY_MS_MIN;
    const retryMs = Math.min(Math.max(this.#drainMs(), retryMsMin), RETRY_MS_MAX);
    return new BusyError(message, Math.round(retryMs));
  }

  /** How long all that wait now take. A start that has already taken longer than the average counts. */
  #drainMs(): number {
    const [oldest] = this.#running;
    const oldestMs = oldest === undefined ? 0 : this.#options.clock.now() - oldest.beganMs;
    const startMs = Math.max(this.#startMs, oldestMs);
    const ahead = this.#lines.normal.size + this.#running.size;
    return (startMs * ahead) / this.#options.concurrency;
  }
}

export interface StartQueueStats {
  /** Starts under way. */
  readonly running: number;
  /** Requests that wait for their turn. */
  readonly waiting: number;
  /** The same of low priority. */
  readonly waitingLow: number;
  /** Memory that the starts and growths under way have reserved, MiB. */
  readonly reservedMib: number;
}

function cancelled(cause: unknown): SandboxError {
  return new SandboxError('cancelled', 'a start was cancelled before its turn', { cause });
}

function closed(): SandboxError {
  return new SandboxError('cancelled', 'no sandbox is started any more: the host is closing');
}
