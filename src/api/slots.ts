import { BusyError } from '../sandbox/errors.ts';
import { LIMITS } from './limits.ts';

/** A limit on concurrent operations of one kind; more are refused. */
export class Slots {
  readonly #what: string;
  readonly #max: number;
  #used = 0;

  /** @param what plural noun for the error message */
  constructor(what: string, max: number) {
    this.#what = what;
    this.#max = max;
  }

  /** Takes a slot. Returns the function that releases it (idempotent). @throws BusyError */
  take(): () => void {
    if (this.#used >= this.#max) {
      throw new BusyError(
        `${this.#max} ${this.#what} are in progress, the maximum`,
        LIMITS.retryAfterMs,
      );
    }
    this.#used += 1;
    let held = true;
    return () => {
      if (held) this.#used -= 1;
      held = false;
    };
  }
}
