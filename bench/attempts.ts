/** Attempts that may fail: a failure is counted and reported, and the benchmark continues. */
import { describeError } from '../src/base/errors.ts';
import type { Measurement } from './benchmark.ts';

export class Attempts {
  readonly #signal: AbortSignal;
  #failed = 0;
  #lastFailure: string | null = null;

  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  /** Returns the result of `work`, or undefined if it failed. @throws the signal's reason once it is aborted */
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

  /** The failures, for a measurement. @param note an additional note */
  failures(note?: string): Pick<Measurement, 'failed' | 'note'> {
    const failure = this.#lastFailure === null ? [] : [`last failure: ${this.#lastFailure}`];
    const notes = [...(note === undefined ? [] : [note]), ...failure];
    return { failed: this.#failed, ...(notes.length === 0 ? {} : { note: notes.join('; ') }) };
  }
}
