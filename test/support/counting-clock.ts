import { FakeClock } from '../../src/base/clock.ts';

/** Knows the number of set timers. */
export class CountingClock extends FakeClock {
  readonly #timers = new Set<object>();

  get timers(): number {
    return this.#timers.size;
  }

  override after(delayMs: number, run: () => void): () => void {
    const timer = {};
    const cancel = super.after(delayMs, () => {
      this.#timers.delete(timer);
      run();
    });
    this.#timers.add(timer);
    return () => {
      this.#timers.delete(timer);
      cancel();
    };
  }
}
