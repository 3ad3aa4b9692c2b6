import fc from 'fast-check';
import { describe, it } from 'vitest';
import { FairShare, type Hold } from './fair-share.ts';

const OWNERS = ['a', 'b', 'c', 'd', 'e'];

const limits = fc
  .record({
    guaranteed: fc.integer({ min: 0, max: 20 }),
    places: fc.integer({ min: 0, max: 6 }),
    rest: fc.integer({ min: 0, max: 100 }),
    more: fc.integer({ min: 0, max: 100 }),
  })
  .map(({ guaranteed, places, rest, more }) => ({
    guaranteed,
    places,
    sumMax: guaranteed * places + rest,
    ownMax: guaranteed + more,
  }));

const step = fc.record({
  what: fc.constantFrom('take', 'take', 'take', 'resize', 'release', 'again'),
  owner: fc.constantFrom(...OWNERS),
  hold: fc.nat({ max: 5 }),
  amount: fc.integer({ min: 1, max: 60 }),
});

const sum = (amounts: readonly number[]): number => amounts.reduce((total, each) => total + each, 0);

describe('FairShare properties', () => {
  it('never exceeds the sum, and never refuses an owner with a place below its guarantee', () => {
    fc.assert(
      fc.property(limits, fc.array(step, { maxLength: 150 }), (bounds, steps) => {
        const shares = new FairShare(bounds);
        const holds = new Map<string, Hold[]>(OWNERS.map((owner) => [owner, []]));
        /** In the order in which they acquired their first amount: the first ones have the places. */
        let active: string[] = [];
        const released: Hold[] = [];
        for (const { what, owner, hold, amount } of steps) {
          const own = holds.get(owner) ?? [];
          const one = own[hold % Math.max(1, own.length)];
          const at = active.indexOf(owner);
          const hasPlace = (at < 0 ? active.length : at) < bounds.places;
          const mustFit = (by: number): boolean =>
            by <= 0 || (hasPlace && shares.heldBy(owner) + by <= bounds.guaranteed);
          if (what === 'take') {
            const taken = shares.take(owner, amount);
            if (taken === undefined && mustFit(amount)) return false;
            if (taken !== undefined) own.push(taken);
          } else if (what === 'resize' && one !== undefined) {
            if (mustFit(amount - one.amount) && !one.resize(amount)) return false;
          } else if (what === 'release' && one !== undefined) {
            one.release();
            own.splice(own.indexOf(one), 1);
            released.push(one);
          } else if (what === 'again') {
            // A second release must not release amounts of others.
            const before = shares.held;
            released[hold % Math.max(1, released.length)]?.release();
            if (shares.held !== before) return false;
          }
          for (const [id, each] of holds) {
            const held = shares.heldBy(id);
            if (held !== sum(each.map((one) => one.amount)) || held > bounds.ownMax) return false;
            if (held === 0) active = active.filter((other) => other !== id);
            else if (!active.includes(id)) active.push(id);
          }
          if (shares.held > bounds.sumMax) return false;
          if (shares.held !== sum(OWNERS.map((id) => shares.heldBy(id)))) return false;
        }
        for (const hold of [...holds.values()].flat()) hold.release();
        // Everything was released: one owner can have all that one owner may have.
        const rest = bounds.sumMax - bounds.guaranteed * bounds.places;
        const own = bounds.places > 0 ? bounds.guaranteed : 0;
        const all = Math.min(bounds.ownMax, own + Math.floor(rest / 2));
        return shares.held === 0 && (all === 0 || shares.take('z', all) !== undefined);
      }),
      { numRuns: 500 },
    );
  });
});
