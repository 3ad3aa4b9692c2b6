/** A queue of items that wait for tokens, served round-robin. */
import type { Clock } from '../../../base/clock.ts';
import { type BucketLimit, TokenBucket } from '../../../base/token-bucket.ts';

/** Longest timer. */
const LOOK_MS_MAX = 60_000;

export class TokenLine<T> {
  readonly #clock: Clock;
  readonly #bucket: TokenBucket;
  readonly #pass: (item: T) => number;
  readonly #waiting = new Set<T>();
  #isServing = false;
  #cancel: (() => void) | undefined;

  /** @param pass serves an item, which may add itself again, and returns the tokens that it used */
  constructor(clock: Clock, limit: BucketLimit | undefined, pass: (item: T) => number) {
    this.#clock = clock;
    this.#bucket = new TokenBucket(limit, clock.now());
    this.#pass = pass;
  }

  get isLimited(): boolean {
    return this.#bucket.isLimited;
  }

  /** Time during which an item waited for tokens, milliseconds. */
  throttledMs(): number {
    return Math.round(this.#bucket.throttledMs(this.#clock.now()));
  }

  /** Serves the item at once if tokens allow. */
  add(item: T): void {
    this.#waiting.add(item);
    this.#serve();
  }

  forget(item: T): void {
    this.#waiting.delete(item);
  }

  setLimit(limit: BucketLimit | undefined): void {
    this.#bucket.setLimit(limit, this.#clock.now());
    this.#serve();
  }

  /** Drops all items. */
  close(): void {
    this.#waiting.clear();
    this.#cancel?.();
    this.#cancel = undefined;
  }

  #serve(): void {
    if (this.#isServing) return;
    this.#isServing = true;
    this.#cancel?.();
    this.#cancel = undefined;
    try {
      for (const item of this.#waiting) {
        if (!this.#bucket.tryOpen(this.#clock.now())) {
          this.#serveLater();
          return;
        }
        this.#waiting.delete(item);
        this.#bucket.spend(this.#pass(item));
      }
    } finally {
      this.#isServing = false;
    }
  }

  #serveLater(): void {
    const waitMs = Math.ceil(this.#bucket.waitMs(this.#clock.now()));
    this.#cancel = this.#clock.after(Math.min(Math.max(1, waitMs), LOOK_MS_MAX), () => {
      // Ends the throttled time, even if no item waits any more.
      this.#bucket.tryOpen(this.#clock.now());
      this.#serve();
    });
  }
}
