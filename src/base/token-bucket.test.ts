import { describe, expect, it } from 'vitest';
import { bucketLimitProblem, TokenBucket } from './token-bucket.ts';

const limit = { size: 100, refillPerSecond: 50 };

describe('TokenBucket', () => {
  it('without a limit: is never closed and never waits', () => {
    const bucket = new TokenBucket(undefined, 0);
    bucket.spend(1e12);
    expect(bucket.tryOpen(0)).toBe(true);
    expect(bucket.waitMs(0)).toBe(0);
    expect(bucket.isLimited).toBe(false);
  });

  it('starts full, closes when empty, opens by refill', () => {
    const bucket = new TokenBucket(limit, 1000);
    expect(bucket.tryOpen(1000)).toBe(true);
    bucket.spend(100);
    expect(bucket.tryOpen(1000)).toBe(false);
    expect(bucket.waitMs(1000)).toBe(20);
    expect(bucket.tryOpen(1020)).toBe(true);
  });

  it('lets a message larger than the bucket pass, into debt', () => {
    const bucket = new TokenBucket(limit, 0);
    bucket.spend(350);
    expect(bucket.tryOpen(4_999)).toBe(false);
    expect(bucket.tryOpen(5_020)).toBe(true);
  });

  it('spends the one-time burst first and never refills it', () => {
    const bucket = new TokenBucket({ ...limit, oneTimeBurst: 30 }, 0);
    bucket.spend(130);
    expect(bucket.tryOpen(0)).toBe(false);
    bucket.tryOpen(60_000);
    bucket.spend(100);
    expect(bucket.tryOpen(60_000)).toBe(false);
  });

  it('holds at most its size', () => {
    const bucket = new TokenBucket(limit, 0);
    bucket.spend(1);
    bucket.tryOpen(1e9);
    bucket.spend(100);
    expect(bucket.tryOpen(1e9)).toBe(false);
  });

  it('counts the time that spenders waited for tokens', () => {
    const bucket = new TokenBucket(limit, 0);
    bucket.spend(200);
    bucket.tryOpen(100);
    expect(bucket.throttledMs(600)).toBe(500);
    bucket.tryOpen(5_000);
    expect(bucket.throttledMs(9_000)).toBe(4_900);
  });

  it('a changed limit keeps debt and tokens; removing it opens', () => {
    const bucket = new TokenBucket(limit, 0);
    bucket.spend(150);
    bucket.setLimit({ size: 1000, refillPerSecond: 10 }, 0);
    expect(bucket.tryOpen(4_999)).toBe(false);
    expect(bucket.tryOpen(5_100)).toBe(true);
    bucket.spend(5000);
    bucket.setLimit(undefined, 5_100);
    expect(bucket.tryOpen(5_100)).toBe(true);
  });

  it('ignores a clock that is set back', () => {
    const bucket = new TokenBucket(limit, 1000);
    bucket.spend(100);
    expect(bucket.tryOpen(0)).toBe(false);
    expect(bucket.tryOpen(1000)).toBe(false);
  });
});

describe('bucketLimitProblem', () => {
  it.each([
    [{ size: 1, refillPerSecond: 1 }, undefined],
    [{ size: 0.5, refillPerSecond: 0.1, oneTimeBurst: 0 }, undefined],
    [{ size: 0, refillPerSecond: 1 }, 'size must be a number above 0'],
    [{ size: Number.NaN, refillPerSecond: 1 }, 'size must be a number above 0'],
    [{ size: 1, refillPerSecond: 0 }, 'refillPerSecond must be a number above 0'],
    [{ size: 1, refillPerSecond: Infinity }, 'refillPerSecond must be a number above 0'],
    [{ size: 1, refillPerSecond: 1, oneTimeBurst: -1 }, 'oneTimeBurst must be a number of at least 0'],
  ])('%j has the problem %s', (value, problem) => {
    expect(bucketLimitProblem(value)).toBe(problem);
  });
});
