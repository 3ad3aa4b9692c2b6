import { describeError } from './errors.ts';

/**
 * A stack of undo actions: acquire something, push its undo. `run` undoes in reverse order, once, continues when an
 * action fails, and throws one `CleanupError` for all failures at the end.
 */
export class CleanupStack {
  readonly #actions: { what: string; undo: () => unknown }[] = [];
  #running: Promise<void> | undefined;

  /** @param what noun phrase of the released thing, for error messages */
  push(what: string, undo: () => unknown): void {
    if (this.#running !== undefined) throw new Error(`cleanup already ran; cannot push ${what}`);
    this.#actions.push({ what, undo });
  }

  run(): Promise<void> {
    this.#running ??= this.#runAll();
    return this.#running;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.run();
  }

  async #runAll(): Promise<void> {
    const failures: { what: string; error: unknown }[] = [];
    for (let action = this.#actions.pop(); action !== undefined; action = this.#actions.pop()) {
      try {
        await action.undo();
      } catch (error) {
        failures.push({ what: action.what, error });
      }
    }
    if (failures.length > 0) throw new CleanupError(failures);
  }
}

class CleanupError extends Error {
  override name = 'CleanupError';
  readonly failures: readonly { what: string; error: unknown }[];

  constructor(failures: readonly { what: string; error: unknown }[]) {
    super(failures.map((f) => `release ${f.what}: ${describeError(f.error)}`).join('; '));
    this.failures = failures;
  }
}
