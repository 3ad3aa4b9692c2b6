import type { Clock } from '../../base/clock.ts';

/** Stops reading from a guest that floods, for the rest of a second: that delays only its own events. */
export class Pace {
  readonly #clock: Clock;
  readonly #perSecond: number;
  readonly #source: { pause(): unknown; resume(): unknown };
  #count = 0;
  #secondStartMs = Number.NEGATIVE_INFINITY;

  constructor(clock: Clock, perSecond: number, source: { pause(): unknown; resume(): unknown }) {
    this.#clock = clock;
    this.#perSecond = perSecond;
    this.#source = source;
  }

  /** Counts an event. */
  take(): void {
    const nowMs = this.#clock.now();
    if (nowMs - this.#secondStartMs >= 1000) {
      this.#secondStartMs = nowMs;
      this.#count = 0;
    }
    this.#count += 1;
    if (this.#count !== this.#perSecond) return;
    this.#source.pause();
    this.#clock.after(this.#secondStartMs + 1000 - nowMs, () => this.#source.resume());
  }
}
