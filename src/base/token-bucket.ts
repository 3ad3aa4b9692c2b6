/**
 * A token bucket whose time is passed in. It limits by making the caller wait, never by refusing:
 *
 *     const bucket = new TokenBucket({ size, refillPerSecond }, now);
 *     if (bucket.tryOpen(now)) bucket.spend(moved); else wakeUpIn(bucket.waitMs(now));
 *
 * `tryOpen` checks only whether *some* token is left, and `spend` may go below zero: a message larger than the whole
 * bucket passes and is paid for afterwards. In any window of T seconds at most
 * `size + oneTimeBurst + refillPerSecond · T` tokens plus one `spend` go through (R-IO-2, R-IO-3).
 */

/** Firecracker's vocabulary. Tokens are bytes or operations, as the caller decides. */
export interface BucketLimit {
  /** Tokens in a full bucket, > 0. */
  readonly size: number;
  /** Tokens per second, > 0. */
  readonly refillPerSecond: number;
  /** Extra tokens at the start, spent first and never refilled. */
  readonly oneTimeBurst?: number;
}

/** The fault of a limit, or undefined. */
export function bucketLimitProblem(limit: BucketLimit): string | undefined {
  const { size, refillPerSecond, oneTimeBurst = 0 } = limit;
  if (!(Number.isFinite(size) && size > 0)) return 'size must be a number above 0';
  if (!(Number.isFinite(refillPerSecond) && refillPerSecond > 0)) return 'refillPerSecond must be a number above 0';
  if (!(Number.isFinite(oneTimeBurst) && oneTimeBurst >= 0)) return 'oneTimeBurst must be a number of at least 0';
  return undefined;
}

export class TokenBucket {
  #limit: BucketLimit | undefined;
  /** Negative: debt. Meaningless without a limit. */
  #tokens = 0;
  #burst = 0;
  #refilledAtMs: number;
  #closedSinceMs: number | undefined;
  #throttledMs = 0;

  /** @param limit undefined: never closed */
  constructor(limit: BucketLimit | undefined, nowMs: number) {
    this.#refilledAtMs = nowMs;
    this.setLimit(limit, nowMs);
  }

  get isLimited(): boolean {
    return this.#limit !== undefined;
  }

  /** Time during which a caller waited for tokens, milliseconds. */
  throttledMs(nowMs: number): number {
    const current = this.#closedSinceMs === undefined ? 0 : nowMs - this.#closedSinceMs;
    return this.#throttledMs + Math.max(0, current);
  }

  /**
   * Replaces the limit. Tokens of a changed limit carry over (debt too, so that changing a limit again and again gives
   * nothing away); a first limit starts full.
   */
  setLimit(limit: BucketLimit | undefined, nowMs: number): void {
    const previous = this.#limit;
    if (previous !== undefined) this.#refill(previous, nowMs);
    this.#limit = limit;
    this.#refilledAtMs = nowMs;
    if (limit === undefined) {
      this.#noteOpen(nowMs);
      return;
    }
    this.#tokens = previous === undefined ? limit.size : Math.min(this.#tokens, limit.size);
    this.#burst = previous === undefined ? (limit.oneTimeBurst ?? 0) : this.#burst;
  }

  /** Whether a spend may happen now; false starts the throttled time. */
  tryOpen(nowMs: number): boolean {
    const limit = this.#limit;
    if (limit === undefined) return true;
    this.#refill(limit, nowMs);
    if (this.#tokens > 0 || this.#burst > 0) {
      this.#noteOpen(nowMs);
      return true;
    }
    this.#closedSinceMs ??= nowMs;
    return false;
  }

  /** Takes tokens, the one-time burst first. May go into debt. */
  spend(tokens: number): void {
    if (this.#limit === undefined) return;
    const fromBurst = Math.min(tokens, this.#burst);
    this.#burst -= fromBurst;
    this.#tokens -= tokens - fromBurst;
  }

  /** Milliseconds until `tryOpen` can return true; 0 if it can now. */
  waitMs(nowMs: number): number {
    const limit = this.#limit;
    if (limit === undefined) return 0;
    this.#refill(limit, nowMs);
    if (this.#tokens > 0 || this.#burst > 0) return 0;
    // One token more than the debt: exactly zero tokens is still closed.
    return ((Math.min(1, limit.size) - this.#tokens) / limit.refillPerSecond) * 1000;
  }

  /** Milliseconds until this many whole tokens, at most the bucket's size, are available. */
  waitForMs(tokens: number, nowMs: number): number {
    const limit = this.#limit;
    if (limit === undefined) return 0;
    this.#refill(limit, nowMs);
    const missing = Math.min(tokens, limit.size) - this.#tokens - this.#burst;
    // Sums of fractions of tokens are not exact.
    return missing <= 1e-9 ? 0 : (missing / limit.refillPerSecond) * 1000;
  }

  #refill(limit: BucketLimit, nowMs: number): void {
    const elapsedMs = nowMs - this.#refilledAtMs;
    if (elapsedMs <= 0) return;
    this.#refilledAtMs = nowMs;
    this.#tokens = Math.min(limit.size, this.#tokens + (elapsedMs * limit.refillPerSecond) / 1000);
  }

  #noteOpen(nowMs: number): void {
    if (this.#closedSinceMs === undefined) return;
    this.#throttledMs += Math.max(0, nowMs - this.#closedSinceMs);
    this.#closedSinceMs = undefined;
  }
}
