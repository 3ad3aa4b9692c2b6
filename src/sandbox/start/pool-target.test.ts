import { describe, expect, it } from 'vitest';
import { RANGES } from '../contract/limits.ts';
import { CALM_MS, PoolTarget } from './pool-target.ts';

/** A target for members that take 2 s to make. */
function targetOf(min: number, max: number): PoolTarget {
  const target = new PoolTarget({ min, max }, 0);
  for (let i = 0; i < 60; i++) target.noteMade(2000);
  return target;
}

describe('PoolTarget', () => {
  const cases: [what: string, claimsMs: number[], min: number, max: number, expected: number][] = [
    ['nothing is asked for', [], 0, 8, 0],
    ['the minimum without demand', [], 2, 8, 2],
    ['one claim', [0], 0, 8, 1],
    ['claims at once', [0, 0, 0, 0, 0], 0, 8, 5],
    ['claims within the time of one make', [0, 500, 1000, 1500], 0, 8, 4],
    ['claims further apart than that', [0, 2500, 5000, 7500], 0, 8, 1],
    ['the busiest time counts', [0, 100, 200, 9000], 0, 8, 3],
    ['never above the maximum', [0, 0, 0, 0, 0], 0, 3, 3],
    ['no member at all is allowed', [0, 0], 0, 0, 0],
  ];
  it.each(cases)('noteClaim: %s', (_what, claimsMs, min, max, expected) => {
    const target = targetOf(min, max);
    for (const claimMs of claimsMs) target.noteClaim(claimMs);
    expect(target.count).toBe(expected);
  });

  it('noteMade: slower members need a larger target for the same demand', () => {
    const counts = [100, 1000, 4000].map((durationMs) => {
      const target = new PoolTarget({ min: 0, max: 64 }, 0);
      for (let i = 0; i < 60; i++) target.noteMade(durationMs);
      for (let i = 0; i < 50; i++) target.noteClaim(i * 250);
      return target.count;
    });
    expect(counts).toEqual([1, 4, 16]);
  });

  it('tick: falls by one after a calm minute, not below the minimum', () => {
    const target = targetOf(1, 8);
    for (let i = 0; i < 4; i++) target.noteClaim(0);
    target.tick(CALM_MS - 1);
    expect(target.count).toBe(4);
    const falling = [0, 1, 2, 3, 4].map((i) => {
      target.tick(CALM_MS + i * 10_000);
      return target.count;
    });
    expect(falling).toEqual([3, 2, 1, 1, 1]);
  });

  it('tick: demand that still needs the target keeps it', () => {
    const target = targetOf(0, 8);
    for (let nowMs = 0; nowMs <= 5 * CALM_MS; nowMs += 10_000) {
      target.noteClaim(nowMs);
      target.noteClaim(nowMs);
      target.tick(nowMs);
      expect(target.count).toBe(2);
    }
  });

  it('setLimits: clamps the count at once', () => {
    const target = targetOf(0, 8);
    for (let i = 0; i < 6; i++) target.noteClaim(0);
    target.setLimits({ min: 0, max: 2 });
    expect(target.count).toBe(2);
    target.setLimits({ min: 5, max: 5 });
    expect(target.count).toBe(5);
    expect(target.limits).toEqual({ min: 5, max: 5 });
  });

  it.each([
    [-1, 1],
    [2, 1],
    [0, RANGES.poolMembers.max + 1],
    [0.5, 1],
    [Number.NaN, 1],
    [0, Number.POSITIVE_INFINITY],
  ])('limits: min %d, max %d are refused', (min, max) => {
    expect(() => new PoolTarget({ min, max }, 0)).toThrow(expect.objectContaining({ code: 'spec_invalid' }));
    const target = targetOf(1, 2);
    expect(() => target.setLimits({ min, max })).toThrow(expect.objectContaining({ code: 'spec_invalid' }));
    expect(target.limits).toEqual({ min: 1, max: 2 });
  });
});
