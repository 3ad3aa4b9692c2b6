import { describe, expect, it } from 'vitest';
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
  it('take: tenants that take all they can leave some to each other and to the operator', () => {
    const { tunnelsMax, tunnelShares } = API_LIMITS;
    const slots = new TenantSlots('tunnels', tunnelsMax, tunnelShares);
    const takeAll = (tenant: string | null): number => {
      for (let taken = 0; ; taken += 1) {
        try {
          slots.take(tenant);
        } catch {
          return taken;
        }
      }
    };
    expect(takeAll('greedy')).toBe(136);
    for (let other = 1; other < tunnelShares.places; other += 1) {
      expect(takeAll(`other ${other}`)).toBeGreaterThanOrEqual(tunnelShares.guaranteed);
    }
    expect(takeAll(null)).toBeGreaterThanOrEqual(tunnelShares.operatorMin);
  });

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
