/** One piece of work at a time; who comes meanwhile waits for his turn. */
import { ignore } from '../base/ignore.ts';

export class Turns {
  #current: Promise<unknown> | undefined;

  get isBusy(): boolean {
    return this.#current !== undefined;
  }

  /** What is under way is over, well or not. Another may have begun by then: look at `isBusy` again. */
  async over(): Promise<void> {
    await this.#current?.catch((error: unknown) => ignore(error, 'told to who asked for it'));
  }

  /** What is possible is looked at by `work`, in its turn. */
  async take<T>(work: () => Promise<T>): Promise<T> {
    while (this.isBusy) await this.over();
    const current = work();
    this.#current = current;
    try {
      return await current;
    } finally {
      this.#current = undefined;
    }
  }
}
