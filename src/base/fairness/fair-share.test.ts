import { expect, it } from 'vitest';
import { FairShare } from './fair-share.ts';

const LIMITS = { sumMax: 100, ownMax: 60, guaranteed: 10, places: 2 };

/** Takes one by one until refused. */
function takeAll(shares: FairShare, owner: string, ownMax?: number): number {
  while (shares.take(owner, 1, ownMax) !== undefined);
  return shares.heldBy(owner);
}

it('FairShare: a greedy owner borrows at most half of the rest', () => {
  const shares = new FairShare(LIMITS);
  expect(takeAll(shares, 'a')).toBe(10 + 40);
  expect(takeAll(shares, 'b')).toBe(10 + 20);
  expect(shares.held).toBe(80);
  expect(shares.refused).toBe(2);
});

it('FairShare: an owner never exceeds its own limit', () => {
  const shares = new FairShare(LIMITS);
  expect(takeAll(shares, 'a', 5)).toBe(5);
  expect(new FairShare(LIMITS).take('a', 61, 1000)).toBeUndefined();
});

it('FairShare: an owner without a place only borrows, and gets a place once its holder has freed all', () => {
  const shares = new FairShare({ ...LIMITS, places: 1 });
  const first = shares.take('a', 10);
  expect(takeAll(shares, 'b')).toBe(45);
  first?.release();
  expect(takeAll(shares, 'b')).toBe(55);
});

it('FairShare: a hold is released once, and grows only if there is room', () => {
  const shares = new FairShare(LIMITS);
  const hold = shares.take('a', 20);
  expect(hold?.resize(51)).toBe(false);
  expect(hold?.amount).toBe(20);
  expect(hold?.resize(50)).toBe(true);
  expect(hold?.resize(30)).toBe(true);
  expect(shares.heldBy('a')).toBe(30);
  hold?.release();
  hold?.release();
  expect(hold?.resize(5)).toBe(false);
  expect([shares.heldBy('a'), shares.held]).toEqual([0, 0]);
});
