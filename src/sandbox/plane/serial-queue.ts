/** One piece of work at a time: who comes meanwhile waits for his turn, or joins in. */
import { ignore } from '../../base/ignore.ts';
import { SandboxError } from '../errors.ts';

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

/** What several want at once is done once. */
export class Joined {
  #current: Promise<void> | undefined;

  /**
   * Who joins another's work, and sees that one cancel it, begins it anew.
   * @param isGivenUp there is no use in that
   */
  async run(work: () => Promise<void>, isGivenUp: () => boolean): Promise<void> {
    for (;;) {
      const isMine = this.#current === undefined;
      this.#current ??= work().finally(() => {
        this.#current = undefined;
      });
      try {
        return await this.#current;
      } catch (error) {
        const isCancelled = error instanceof SandboxError && error.code === 'cancelled';
        if (isMine || !isCancelled || isGivenUp()) throw error;
      }
    }
  }
}
