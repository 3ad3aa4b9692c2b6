/** One piece of work at a time; who comes meanwhile waits for his turn. */
import { ignore } from '../base/ignore.ts';

export class Turns {
  #current: Promise<unknown> | undefined;

  get isBusy(): boolean {
    return this.#current !== undefined;
  }

  /** Resolves when nothing is under way, well or not. */
  async idle(): Promise<void> {
    while (this.#current !== undefined) {
      await this.#current.catch((error: unknown) => ignore(error, 'told to who asked for it'));
    }
  }

  /** What is possible is looked at by `work`, in its turn. */
  async take<T>(work: () => Promise<T>): Promise<T> {
    await this.idle();
    const current = work();
    this.#current = current;
    try {
      return await current;
    } finally {
      this.#current = undefined;
    }
  }
}
