/** Serializes work on one object. */
import { ignore } from '../../base/ignore.ts';
import { SandboxError } from '../contract/errors.ts';

export class SerialQueue {
  #current: Promise<unknown> | undefined;

  get isBusy(): boolean {
    return this.#current !== undefined;
  }

  /** Waits for the current work, which may fail. Other work may have begun by then: check `isBusy` again. */
  async settle(): Promise<void> {
    await this.#current?.catch((error: unknown) => ignore(error, 'reported to the caller'));
  }

  /** Waits until no work is under way. Other work may have begun by the time the caller continues. */
  async drain(): Promise<void> {
    while (this.isBusy) await this.settle();
  }

  /** `work` itself must check what the state allows when it runs. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    while (this.isBusy) await this.settle();
    const current = work();
    this.#current = current;
    return await current.finally(() => {
      this.#current = undefined;
    });
  }
}

/** Runs work once for several simultaneous callers. */
export class SingleFlight {
  #current: Promise<void> | undefined;

  /**
   * Joins the work under way. If its starter cancels it, starts it again.
   * @param isGivenUp true: do not start it again
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
