import type { Clock } from '../base/clock.ts';

/**
 * Fires when nothing was reported for a while. `touch` costs an assignment, so it may be called per chunk:
 * the timer looks at the last touch when it comes due, and waits for the rest.
 */
export class IdleTimer {
  readonly #clock: Clock;
  readonly #delayMs: number;
  readonly #fire: () => void;
  #touchedAtMs: number;
  #cancel: (() => void) | undefined;

  /** Starts at once. `fire` runs once per silence; another needs another `touch` or a lapse. */
  constructor(clock: Clock, delayMs: number, fire: () => void) {
    this.#clock = clock;
    this.#delayMs = delayMs;
    this.#fire = fire;
    this.#touchedAtMs = clock.now();
    this.#arm(delayMs);
  }

  touch(): void {
    this.#touchedAtMs = this.#clock.now();
  }

  stop(): void {
    this.#cancel?.();
    this.#cancel = undefined;
  }

  #arm(delayMs: number): void {
    this.#cancel = this.#clock.after(delayMs, () => {
      const restMs = this.#touchedAtMs + this.#delayMs - this.#clock.now();
      // Timers of the platform may come a fraction of a millisecond early.
      if (restMs > 1) {
        this.#arm(restMs);
        return;
      }
      this.touch();
      this.#arm(this.#delayMs);
      this.#fire();
    });
  }
}
