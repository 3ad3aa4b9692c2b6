import { EngineError } from './errors.ts';

/** Requests that may wait for a slot. More are refused: a client that retries later is better off. */
export const QUEUE_MAX = 64;

/** Lets at most `size` run at a time, the others wait in order of arrival. */
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
   * @throws EngineError `overloaded` when the queue is full; the signal's reason when it aborts first
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
      throw new EngineError('overloaded', `${this.#waiting.size} requests wait already`);
    }
    return new Promise((resolve, reject) => {
      const go = (): void => {
        leave();
        this.#used++;
        resolve();
      };
      const abort = (): void => {
        leave();
        reject(signal.reason);
      };
      const leave = (): void => {
        this.#waiting.delete(go);
        signal.removeEventListener('abort', abort);
      };
      this.#waiting.add(go);
      signal.addEventListener('abort', abort, { once: true });
    });
  }
}
