import { describe, expect, it } from 'vitest';
import { E2B_LIMITS } from '../e2b/limits.ts';
import { API_LIMITS } from './limits.ts';
import { Slots, TenantSlots } from './slots.ts';

const busy = (message: string) => expect.objectContaining({ code: 'busy', message });

describe('Slots', () => {
  it('take: refuses above the limit, until a slot is released', () => {
    const slots = new Slots('programs', 2);
    slots.take();
    const giveBack = slots.take();
    expect(() => slots.take()).toThrow(busy('2 programs are in progress, the maximum'));
    giveBack();
    giveBack();
    slots.take();
    expect(() => slots.take()).toThrow();
  });

  it('take: refuses above the limit of a sandbox, and still serves another', () => {
    const slots = new Slots('listings', 3, 2);
    slots.take('a');
    const giveBack = slots.take('a');
    expect(() => slots.take('a')).toThrow(busy('sandbox a: 2 listings are in progress, the maximum'));
    slots.take('b');
    expect(() => slots.take('b')).toThrow(busy('3 listings are in progress, the maximum'));
    giveBack();
    slots.take('a');
  });
});

describe('TenantSlots', () => {
  const { tunnelsMax, tunnelShares, eventStreamsMax, eventStreamShares, sessionsMax, sessionShares } = API_LIMITS;
  it.each([
    ['tunnels', tunnelsMax, tunnelShares, 136],
    ['event streams', eventStreamsMax, eventStreamShares, eventStreamShares.ownMax],
    ['sessions', sessionsMax, sessionShares, sessionShares.ownMax],
    ['calls', E2B_LIMITS.callsMax, E2B_LIMITS.callShares, 1600],
  ])(
    'take: tenants that take all %s they can leave some to each other and to the operator',
    (what, max, shares, most) => {
      const slots = new TenantSlots(what, max, shares);
      const takeAll = (tenant: string | null): number => {
        for (let taken = 0; ; taken += 1) {
          try {
            slots.take(tenant);
          } catch {
            return taken;
          }
        }
      };
      expect(takeAll('greedy')).toBe(most);
      for (let other = 1; other < shares.places; other += 1) {
        expect(takeAll(`other ${other}`)).toBeGreaterThanOrEqual(shares.guaranteed);
      }
      expect(takeAll(null)).toBeGreaterThanOrEqual(shares.operatorMin);
    },
  );

  it('take: names the tenant whose share is in use, and serves it again after a release', () => {
    const slots = new TenantSlots('tunnels', 4, { operatorMin: 2, guaranteed: 1, places: 1 });
    const giveBack = slots.take('first');
    const full = busy('tenant first: 1 tunnels are in progress, its share');
    expect(() => slots.take('first')).toThrow(full);
    giveBack();
    giveBack();
    slots.take('first');
    expect(() => slots.take('first')).toThrow(full);
    for (let own = 0; own < 3; own += 1) slots.take(null);
    expect(() => slots.take(null)).toThrow(busy('4 tunnels are in progress, the maximum'));
  });
});
