import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FairQueue } from './fair-queue.ts';

/** A naive model with arrays: the tenant that waits longest for its turn, then its oldest item. */
class NaiveLine {
  items: { tenant: string; item: number }[] = [];
  round: string[] = [];

  add(tenant: string, item: number): void {
    this.items.push({ tenant, item });
    if (!this.round.includes(tenant)) this.round.push(tenant);
  }

  first(): number | undefined {
    return this.items.find(({ tenant }) => tenant === this.round[0])?.item;
  }

  take(): number | undefined {
    const item = this.first();
    const [tenant] = this.round;
    if (item === undefined || tenant === undefined) return undefined;
    this.round = [...this.round.slice(1), tenant];
    this.delete(item);
    return item;
  }

  delete(item: number): void {
    this.items = this.items.filter((one) => one.item !== item);
    this.round = this.round.filter((name) => this.items.some(({ tenant }) => tenant === name));
  }
}

const step = fc.oneof(
  fc.record({ kind: fc.constant('add'), tenant: fc.constantFrom('a', 'b', 'c') }),
  fc.record({ kind: fc.constant('take') }),
  fc.record({ kind: fc.constant('delete'), pick: fc.nat({ max: 40 }) }),
);

describe('FairQueue properties', () => {
  it('FairQueue: first in, first out within a tenant, round-robin over tenants, as in a naive model', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
        const line = new FairQueue<number>();
        const naive = new NaiveLine();
        const tenants: string[] = [];
        for (const one of steps) {
          if ('tenant' in one) {
            line.add(one.tenant, tenants.length);
            naive.add(one.tenant, tenants.length);
            tenants.push(one.tenant);
          } else if ('pick' in one) {
            line.delete(tenants[one.pick] ?? 'nobody', one.pick);
            naive.delete(one.pick);
          } else {
            expect(line.take()).toBe(naive.take());
          }
          expect(line.first()).toBe(naive.first());
          expect(line.size).toBe(naive.items.length);
        }
      }),
      { numRuns: 1000 },
    );
  });

  it('FairQueue: no tenant has two turns between two turns of a waiting one', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom('a', 'b', 'c', 'd'), { minLength: 1, maxLength: 60 }), (tenants) => {
        const line = new FairQueue<number>();
        for (const [item, tenant] of tenants.entries()) line.add(tenant, item);
        const turns = new Map<string, number>(tenants.map((tenant) => [tenant, 0]));
        for (let left = tenants.length; left > 0; left--) {
          const tenant = tenants[line.take() ?? -1] ?? 'nobody';
          const turn = (turns.get(tenant) ?? Number.NaN) + 1;
          turns.set(tenant, turn);
          for (const [other, had] of turns) {
            const all = tenants.filter((one) => one === other).length;
            expect(had).toBeGreaterThanOrEqual(Math.min(turn - 1, all));
          }
        }
        expect(line.take()).toBeUndefined();
      }),
      { numRuns: 300 },
    );
  });
});
