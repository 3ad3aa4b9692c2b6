/**
 * Starts the steps of concurrent generations together, so that llama.cpp computes their tokens in one batch.
 *
 * Otherwise node-llama-cpp's queue never joins two generations: while the token of one is computed, that of the other
 * is queued, and starts before the first one has asked for its next token. So they would alternate, one token per pass.
 */
export class Rounds {
  readonly #waiting: (() => void)[] = [];
  #running = 0;
  #isScheduled = false;

  /** Runs `work`, e.g. the computation of one token, when all steps of the previous round are done. */
  async step<T>(work: () => Promise<T>): Promise<T> {
    await new Promise<void>((resolve) => {
      this.#waiting.push(resolve);
      this.#schedule();
    });
    try {
      return await work();
    } finally {
      this.#running--;
      this.#schedule();
    }
  }

  /** Yields the same as `items`, each computed in a step. A slow consumer delays no other generation. */
  async *each<T>(items: AsyncGenerator<T, unknown>): AsyncGenerator<T, void> {
    try {
      for (;;) {
        const result = await this.step(() => items.next());
        if (result.done === true) return;
        yield result.value;
      }
    } finally {
      await items.return(undefined);
    }
  }

  /** Deferred: generations whose step is just done ask for their next one in the same turn of the event loop. */
  #schedule(): void {
    if (this.#isScheduled || this.#running > 0 || this.#waiting.length === 0) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      const starts = this.#waiting.splice(0);
      this.#running = starts.length;
      for (const start of starts) start();
    });
  }
}
