import { EngineError } from './errors.ts';

/** Requests that may wait for a slot. More are refused, so that their clients retry later. */
export const QUEUE_MAX = 64;

export class Slots {
  readonly #size: number;
  readonly #queueMax: number;
  readonly #waiting = new Set<() => void>();
  #used = 0;

  constructor(size: number, queueMax = QUEUE_MAX) {
    this.#size = size;
    this.#queueMax = queueMax;
  }

  get used(): number {
    return this.#used;
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  /**
   * Runs `work` when a slot is free.
   * @throws EngineError `overloaded` if the queue is full; the signal's reason if it aborts first
   */
  async run<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    await this.#take(signal);
    try {
      return await work();
    } finally {
      this.#used--;
      const [next] = this.#waiting;
      next?.();
    }
  }

  #take(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.#used < this.#size) {
      this.#used++;
      return Promise.resolve();
    }
    if (this.#waiting.size >= this.#queueMax) {
      throw new EngineError('overloaded', `${this.#waiting.size} requests are waiting already; retry later`);
    }
    return new Promise((resolve, reject) => {
      const start = (): void => {
        forget();
        this.#used++;
        resolve();
      };
      const abort = (): void => {
        forget();
        reject(signal.reason);
      };
      const forget = (): void => {
        this.#waiting.delete(start);
        signal.removeEventListener('abort', abort);
      };
      this.#waiting.add(start);
      signal.addEventListener('abort', abort, { once: true });
    });
  }
}
