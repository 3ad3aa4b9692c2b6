import fc from 'fast-check';
import { describe, it } from 'vitest';
import { TokenBucket } from './token-bucket.ts';

describe('TokenBucket properties', () => {
  it('over any window passes at most size + burst + refill·T + one spend (R-IO-3)', () => {
    const step = fc.record({ waitMs: fc.nat({ max: 3000 }), tokens: fc.integer({ min: 1, max: 500 }) });
    const limit = fc.record({
      size: fc.integer({ min: 1, max: 1000 }),
      refillPerSecond: fc.integer({ min: 1, max: 1000 }),
      oneTimeBurst: fc.nat({ max: 500 }),
    });
    fc.assert(
      fc.property(limit, fc.array(step, { maxLength: 80 }), (parameters, steps) => {
        const bucket = new TokenBucket(parameters, 0);
        const passed: { atMs: number; tokens: number }[] = [];
        let nowMs = 0;
        for (const { waitMs, tokens } of steps) {
          nowMs += waitMs;
          if (!bucket.tryOpen(nowMs)) continue;
          bucket.spend(tokens);
          passed.push({ atMs: nowMs, tokens });
        }
        return passed.every((first, from) => {
          let sum = 0;
          return passed.slice(from).every(({ atMs, tokens }) => {
            // The last spend may be whole although only a fraction of a token was left.
            const before = sum;
            sum += tokens;
            const refilled = ((atMs - first.atMs) * parameters.refillPerSecond) / 1000;
            return before <= parameters.size + parameters.oneTimeBurst + refilled + 1e-6;
          });
        });
      }),
      { numRuns: 500 },
    );
  });

  it('opens no later than waitMs says, and not before there can be tokens', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 1000 }),
        fc.integer({ min: 1, max: 1000 }),
        fc.nat({ max: 5000 }),
        (size, refillPerSecond, debt) => {
          const bucket = new TokenBucket({ size, refillPerSecond }, 0);
          bucket.spend(size + debt);
          const waitMs = bucket.waitMs(0);
          const early = new TokenBucket({ size, refillPerSecond }, 0);
          early.spend(size + debt);
          return bucket.tryOpen(waitMs + 1e-6) && !early.tryOpen((debt / refillPerSecond) * 1000 - 1e-3);
        },
      ),
      { numRuns: 500 },
    );
  });
});
