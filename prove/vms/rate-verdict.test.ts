import { describe, expect, it } from 'vitest';
import { TokenBucket } from '../../src/base/token-bucket.ts';
import { KIB } from '../../src/base/units.ts';
import { type Count, freeTry, limitBelow, limitedTries, neighborTry, type Rate, worstWindow } from './rate-verdict.ts';

const RATE: Rate = { size: 1000, perSecond: 1000, turn: 100 };
const STEP_MS = 10;
const DURATION_MS = 4000;

/** A flow through a bucket, counted every 100 ms; each count arrives `lateMs` after its request. */
function flow(
  options: {
    perSecond?: number;
    size?: number;
    lateMs?: number;
    /** Bytes that bypass the bucket, by time. */
    leak?: (atMs: number) => number;
    /** Nothing passes from this time on. */
    stopsAtMs?: number;
  } = {},
): Count[] {
  const { perSecond = 1000, size = 1000, lateMs = 0, stopsAtMs = Infinity } = options;
  const bucket = new TokenBucket({ size, refillPerSecond: perSecond }, 0);
  const counts: Count[] = [{ askedAtMs: -lateMs, answeredAtMs: 0, bytes: 0 }];
  let bytes = 0;
  for (let now = 0; now <= DURATION_MS; now += STEP_MS) {
    while (now < stopsAtMs && bucket.tryOpen(now)) {
      bucket.spend(RATE.turn);
      bytes += RATE.turn;
    }
    bytes += options.leak?.(now) ?? 0;
    const count = { askedAtMs: now - lateMs / 2, answeredAtMs: now + lateMs / 2, bytes };
    if (now % 100 === 0) counts.push(count);
  }
  return counts;
}

const verdicts = (counts: readonly Count[]): boolean[] => limitedTries('x', counts, RATE).map(({ ok }) => ok);

describe('limitedTries', () => {
  it('hold for a bucket of that rate, also if counts are late', () => {
    expect(verdicts(flow())).toEqual([true, true]);
    expect(verdicts(flow({ lateMs: 80 }))).toEqual([true, true]);
    expect(verdicts(flow({ size: 1 }))).toEqual([true, true]);
  });

  it.each([
    ['a rate twice as high', { perSecond: 2000 }],
    ['a bucket of twice the size', { size: 2500 }],
    ['a burst in the middle', { leak: (at: number) => (at === 2000 ? 1200 : 0) }],
    ['a second bucket, e.g. after a change that gives tokens away', { leak: (at: number) => (at === 3000 ? 1100 : 0) }],
    ['a trickle beside the bucket', { leak: () => 5 }],
  ])('hold for a bucket of that rate, even if counts are late', (_, options) => {
    expect(verdicts(flow(options))[0]).toBe(false);
  });

  it('fail for a limit that blocks, and for too few counts', () => {
    expect(verdicts(flow({ stopsAtMs: 500 }))).toEqual([true, false]);
    expect(verdicts(flow({ perSecond: 300, size: 1 }))).toEqual([true, false]);
    expect(verdicts([])).toEqual([false, false]);
    expect(verdicts(flow().slice(0, 9))[0]).toBe(false);
  });

  it('compute the share from when there was something to send, and windows from the start', () => {
    const late = flow().map((count) => ({
      ...count,
      askedAtMs: count.askedAtMs + 20_000,
      answeredAtMs: count.answeredAtMs + 20_000,
    }));
    const counts = [{ askedAtMs: 0, answeredAtMs: 0, bytes: 0 }, ...late];
    expect(verdicts(counts)).toEqual([true, false]);
    const since = (ms: number) => limitedTries('x', counts, RATE, ms).map(({ ok }) => ok);
    expect(since(20_000)).toEqual([true, true]);
    expect(since(30_000)).toEqual([true, false]);
  });

  it('find the worst window, wherever it is', () => {
    const counts = [0, 10, 20, 3000, 3010, 3020].map((bytes, n) => ({
      askedAtMs: n * 100,
      answeredAtMs: n * 100 + 1,
      bytes,
    }));
    expect(worstWindow(counts, RATE)).toMatchObject({ bytes: 2980, ms: 101, excess: 1779 });
  });
});

describe('freeTry', () => {
  it('fails for a flow that the limit would allow: the guest sent too little to show anything', () => {
    expect(freeTry('x', flow({ perSecond: 100_000 }), RATE).ok).toBe(true);
    expect(freeTry('x', flow(), RATE).ok).toBe(false);
    expect(freeTry('x', [], RATE).ok).toBe(false);
  });
});

describe('neighborTry', () => {
  /** Other load has slowed half of the round trips. */
  const samples = (ms: number): number[] => [ms, 900, 1, 999, ms];
  const of = (alone: number, limited: number, unlimited: number): boolean =>
    neighborTry({ alone: samples(alone), limited: samples(limited), unlimited: samples(unlimited) }).ok;

  it('holds if the limit removes half of the flood’s cost', () => {
    expect(of(10, 15, 100)).toBe(true);
    expect(of(10, 54, 100)).toBe(true);
    expect(of(10, 56, 100)).toBe(false);
    expect(of(10, 100, 100)).toBe(false);
  });

  it('if the flood costs nothing, the limited one may not cost anything either', () => {
    expect(of(10, 11, 10)).toBe(true);
    expect(of(10, 19, 10)).toBe(true);
    expect(of(10, 21, 10)).toBe(false);
  });

  it('fails without measurements', () => {
    expect(neighborTry({ alone: [], limited: [1], unlimited: [1] }).ok).toBe(false);
  });
});

it('limitBelow: a quarter of the free rate, within distinguishable bounds', () => {
  expect([1e9, 1024 * KIB, 400 * KIB, 1].map(limitBelow)).toEqual([256, 256, 100, 64].map((kib) => kib * KIB));
});
