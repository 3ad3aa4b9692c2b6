import type { PoolLimits } from '../contract/control.ts';
import { SandboxError } from '../contract/errors.ts';
import { RANGES } from '../contract/limits.ts';

const POOL_MEMBERS_MAX = RANGES.poolMembers.max;

/** The target does not fall for this time after it was last needed. */
export const CALM_MS = 60_000;
/** Assumed time to make a member before the first measurement. */
const MAKE_MS_GUESS = 1000;
/** Weight of the newest member in the moving average. */
const MAKE_MS_WEIGHT = 0.25;

/**
 * The desired number of members of a pool, between min and max. Rises at once to the number of claims within the time
 * that it takes to make a member: with that many ready, no claim would have found the pool empty. Falls by one at each
 * tick once it was not needed for `CALM_MS`.
 */
export class PoolTarget {
  #limits: PoolLimits;
  #count: number;
  #neededMs: number;
  #makeMs = MAKE_MS_GUESS;
  /** Times of the last claims, oldest first; at most `POOL_MEMBERS_MAX`. */
  #claimsMs: readonly number[] = [];

  /** @throws SandboxError `spec_invalid` if the limits contradict each other */
  constructor(limits: PoolLimits, nowMs: number) {
    checkLimits(limits);
    this.#limits = limits;
    this.#count = limits.min;
    this.#neededMs = nowMs;
  }

  get limits(): PoolLimits {
    return this.#limits;
  }

  get count(): number {
    return this.#count;
  }

  /** @throws SandboxError `spec_invalid` */
  setLimits(limits: PoolLimits): void {
    checkLimits(limits);
    this.#limits = limits;
    this.#count = clamp(this.#count, limits);
  }

  noteClaim(nowMs: number): void {
    this.#claimsMs = [...this.#claimsMs, nowMs]
      .slice(-POOL_MEMBERS_MAX)
      .filter((claimMs) => claimMs > nowMs - this.#makeMs);
    const needed = clamp(this.#claimsMs.length, this.#limits);
    if (needed < this.#count) return;
    this.#count = needed;
    this.#neededMs = nowMs;
  }

  /** @param durationMs time from the need for a member until it was ready, including the queue */
  noteMade(durationMs: number): void {
    this.#makeMs += (durationMs - this.#makeMs) * MAKE_MS_WEIGHT;
  }

  tick(nowMs: number): void {
    if (nowMs - this.#neededMs >= CALM_MS) this.#count = clamp(this.#count - 1, this.#limits);
  }
}

function clamp(count: number, { min, max }: PoolLimits): number {
  return Math.min(Math.max(count, min), max);
}

function checkLimits({ min, max }: PoolLimits): void {
  const whole = Number.isInteger(min) && Number.isInteger(max);
  if (whole && min >= 0 && min <= max && max <= POOL_MEMBERS_MAX) return;
  throw new SandboxError(
    'spec_invalid',
    `pool: min ${min} and max ${max} must be whole, 0 ≤ min ≤ max ≤ ${POOL_MEMBERS_MAX}`,
  );
}
