import type { Clock } from './clock.ts';

/**
 * Calls back after each idle period. `touch` costs an assignment, so it may be called per chunk: when the timer comes
 * due, it checks the last touch and waits for the rest.
 */
export class IdleTimer {
  readonly #clock: Clock;
  readonly #idleMs: number;
  readonly #onIdle: () => void;
  #touchedAtMs: number;
  #cancel: (() => void) | undefined;

  /** Starts at once. `onIdle` runs again after each further `idleMs` without a touch, until `stop`. */
  constructor(clock: Clock, idleMs: number, onIdle: () => void) {
    this.#clock = clock;
    this.#idleMs = idleMs;
    this.#onIdle = onIdle;
    this.#touchedAtMs = clock.now();
    this.#arm(idleMs);
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
      const restMs = this.#touchedAtMs + this.#idleMs - this.#clock.now();
      // Timers of the platform may fire a fraction of a millisecond early.
      if (restMs > 1) {
        this.#arm(restMs);
        return;
      }
      this.touch();
      this.#arm(this.#idleMs);
      this.#onIdle();
    });
  }
}
