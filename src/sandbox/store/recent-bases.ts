/**
 * Bases that recent saves needed. The next save of the same template would have to write one again, which takes longer
 * than everything else in the save.
 */
import type { Clock } from '../../base/clock.ts';

/** Each is as large as a template's RAM. */
const COUNT_MAX = 4;

export class RecentBases {
  readonly #clock: Clock;
  readonly #keptMs: number;
  /** Time of the last need by digest; the most recent last. */
  readonly #needed = new Map<string, number>();

  /** @param keptMs 0 keeps none */
  constructor(clock: Clock, keptMs: number) {
    this.#clock = clock;
    this.#keptMs = keptMs;
  }

  note(digest: string): void {
    if (this.#keptMs === 0) return;
    this.#needed.delete(digest);
    this.#needed.set(digest, this.#clock.now());
    const [oldest] = this.#needed.keys();
    if (this.#needed.size > COUNT_MAX && oldest !== undefined) this.#needed.delete(oldest);
  }

  has(digest: string): boolean {
    const neededMs = this.#needed.get(digest);
    return neededMs !== undefined && this.#clock.now() - neededMs < this.#keptMs;
  }

  /** @returns whether there were any */
  clear(): boolean {
    const { size } = this.#needed;
    this.#needed.clear();
    return size > 0;
  }
}
