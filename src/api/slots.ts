import { BusyError } from '../sandbox/errors.ts';
import { LIMITS } from './limits.ts';

/** How many of a kind may be under way at once; more are refused. */
export class Slots {
  readonly #what: string;
  readonly #max: number;
  #used = 0;

  /** @param what plural, for the message. */
  constructor(what: string, max: number) {
    this.#what = what;
    this.#max = max;
  }

  /** Returns how to give it back, once. @throws BusyError */
  take(): () => void {
    if (this.#used >= this.#max) {
      throw new BusyError(`${this.#what}: ${this.#max} are under way`, LIMITS.retryAfterMs);
    }
    this.#used += 1;
    let held = true;
    return () => {
      if (held) this.#used -= 1;
      held = false;
    };
  }
}
