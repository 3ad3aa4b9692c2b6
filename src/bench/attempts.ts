/** Attempts at something that may fail: a failure is counted and told, and the benchmark goes on. */
import { describeError } from '../base/errors.ts';
import type { Measurement } from './benchmark.ts';

export class Attempts {
  readonly #signal: AbortSignal;
  #failed = 0;
  #lastFailure: string | null = null;

  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  /** What `work` gives; undefined: it failed. @throws the signal's reason once that is aborted */
  async run<T>(work: () => Promise<T>): Promise<T | undefined> {
    this.#signal.throwIfAborted();
    try {
      return await work();
    } catch (error) {
      this.#signal.throwIfAborted();
      this.count(describeError(error));
      return undefined;
    }
  }

  count(failure: string): void {
    this.#failed += 1;
    this.#lastFailure = failure;
  }

  /** For a measurement, beside what else is to be said. */
  told(note?: string): Pick<Measurement, 'failed' | 'note'> {
    const failure = this.#lastFailure === null ? [] : [`last failure: ${this.#lastFailure}`];
    const notes = [...(note === undefined ? [] : [note]), ...failure];
    return { failed: this.#failed, ...(notes.length === 0 ? {} : { note: notes.join('; ') }) };
  }
}
