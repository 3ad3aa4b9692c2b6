/** Tells when nothing has moved for too long; one timer, however often something moves. */
import type { Clock } from '../base/clock.ts';

export class IdleTimer {
  readonly #clock: Clock;
  readonly #idleMs: number;
  readonly #onIdle: () => void;
  #movedAtMs: number;
  #cancel: (() => void) | undefined;

  constructor(clock: Clock, idleMs: number, onIdle: () => void) {
    this.#clock = clock;
    this.#idleMs = idleMs;
    this.#onIdle = onIdle;
    this.#movedAtMs = clock.now();
    this.#arm(idleMs);
  }

  moved(): void {
    this.#movedAtMs = this.#clock.now();
  }

  stop(): void {
    this.#cancel?.();
    this.#cancel = undefined;
  }

  #arm(delayMs: number): void {
    this.#cancel = this.#clock.after(delayMs, () => {
      const restMs = this.#movedAtMs + this.#idleMs - this.#clock.now();
      // Timers of the platform may come a fraction of a millisecond early.
      if (restMs > 1) this.#arm(restMs);
      else this.#onIdle();
    });
  }
}
