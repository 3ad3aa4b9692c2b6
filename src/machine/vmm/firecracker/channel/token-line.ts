/** A queue of items that wait for tokens and for their turn, served round-robin. */
import type { Clock } from '../../../../base/clock.ts';
import { type BucketLimit, TokenBucket } from '../../../../base/token-bucket.ts';

/** Longest timer. */
const LOOK_MS_MAX = 60_000;

export class TokenLine<T> {
  readonly #clock: Clock;
  readonly #bucket: TokenBucket;
  readonly #pass: (item: T) => number;
  readonly #wake: () => void;
  readonly #waiting = new Set<T>();
  #cancel: (() => void) | undefined;

  /**
   * @param pass serves an item, which may add itself again, and returns the tokens that it used
   * @param wake called when there is work for `serve`, which must follow
   */
  constructor(clock: Clock, limit: BucketLimit | undefined, pass: (item: T) => number, wake: () => void) {
    this.#clock = clock;
    this.#bucket = new TokenBucket(limit, clock.now());
    this.#pass = pass;
    this.#wake = wake;
  }

  /** Time during which an item waited for tokens, milliseconds. */
  throttledMs(): number {
    return Math.round(this.#bucket.throttledMs(this.#clock.now()));
  }

  add(item: T): void {
    this.#waiting.add(item);
    // Otherwise the line waits for tokens.
    if (this.#cancel === undefined) this.#wake();
  }

  forget(item: T): void {
    this.#waiting.delete(item);
  }

  setLimit(limit: BucketLimit | undefined): void {
    this.#bucket.setLimit(limit, this.#clock.now());
    this.#stopWaiting();
    this.#wake();
  }

  /**
   * Serves items as far as tokens allow, until they have used `share`.
   * @param leastCost minimum share that an item uses
   * @returns whether there is more to serve now
   */
  serve(share: number, leastCost: number): boolean {
    if (this.#cancel !== undefined) return false;
    let used = 0;
    for (const item of this.#waiting) {
      if (used >= share) return true;
      if (!this.#bucket.tryOpen(this.#clock.now())) {
        this.#waitForTokens();
        return false;
      }
      this.#waiting.delete(item);
      const tokens = this.#pass(item);
      this.#bucket.spend(tokens);
      used += Math.max(tokens, leastCost);
    }
    return false;
  }

  close(): void {
    this.#waiting.clear();
    this.#stopWaiting();
  }

  #stopWaiting(): void {
    this.#cancel?.();
    this.#cancel = undefined;
  }

  #waitForTokens(): void {
    const waitMs = Math.ceil(this.#bucket.waitMs(this.#clock.now()));
    this.#cancel = this.#clock.after(Math.min(Math.max(1, waitMs), LOOK_MS_MAX), () => {
      this.#cancel = undefined;
      // Ends the throttled time if no item waits any more.
      if (this.#waiting.size === 0) this.#bucket.tryOpen(this.#clock.now());
      else this.#wake();
    });
  }
}
