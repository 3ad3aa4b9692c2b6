import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { SandboxId } from '../../../base/ids.ts';
import { AddressPlan } from './address-plan.ts';
import { cidrCovers, cidrsOverlap } from './addresses.ts';

it('AddressPlan: never leases an address, TAP or subnet twice, in any order of operations', () => {
  const step = fc.record({ who: fc.nat({ max: 11 }), leave: fc.boolean() });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const plan = new AddressPlan('10.9.9.0/27');
      const expected = new Set<string>();
      for (const { who, leave } of steps) {
        const name = `w${who}x`.padEnd(20, '0') as SandboxId;
        if (leave) {
          plan.release(name);
          expected.delete(name);
        } else if (expected.has(name) || expected.size < plan.capacity) {
          plan.lease(name);
          expected.add(name);
        } else expect(() => plan.lease(name)).toThrowError(/all 8 of/);
        const leases = plan.leases();
        expect(new Set(leases.map((lease) => lease.id))).toEqual(expected);
        for (const key of ['hostAddress', 'guestAddress', 'tap'] as const) {
          expect(new Set(leases.map((lease) => lease[key])).size).toBe(leases.length);
        }
        for (const [i, a] of leases.entries()) {
          expect(cidrCovers(plan.pool, a.subnet)).toBe(true);
          expect(leases.slice(i + 1).some((b) => cidrsOverlap(a.subnet, b.subnet))).toBe(false);
        }
      }
    }),
    { numRuns: 200 },
  );
});
