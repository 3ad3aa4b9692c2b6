import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../../base/clock.ts';
import { Pins, pinSeconds } from './pins.ts';

describe('pins properties', () => {
  it('pins: agree with a plain list, and never exceed the limit', () => {
    const limits = { namesMax: 3, addressesPerNameMax: 3, pinsMax: 6 };
    const step = fc.record({
      name: fc.constantFrom('a', 'b', 'c', 'd'),
      addresses: fc.array(fc.constantFrom('1', '2', '3', '4'), { maxLength: 4 }),
      ttl: fc.constantFrom(0, 40, 100, 5000),
      waitMs: fc.constantFrom(0, 10_000, 31_000, 3_600_000),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 20 }), (steps) => {
        const clock = new FakeClock();
        const pins = new Pins(clock, limits);
        let model: { name: string; address: string; endMs: number }[] = [];
        for (const { name, addresses, ttl, waitMs } of steps) {
          const pinned = pins.pin(name, addresses, ttl);
          const endMs = clock.now() + pinSeconds(ttl) * 1000;
          if (pinned.ok) for (const address of addresses) model.push({ name, address, endMs });
          else expect(pins.size).toBeLessThanOrEqual(limits.pinsMax);
          clock.advance(waitMs);
          model = model.filter((pin) => pin.endMs > clock.now());
          for (const n of ['a', 'b', 'c', 'd'])
            for (const a of ['1', '2', '3', '4']) {
              const isThere = model.some((pin) => pin.name === n && pin.address === a);
              expect(pins.isPinned(n, a)).toBe(isThere);
              expect(pins.namesOf(a).includes(n)).toBe(isThere);
              expect(pins.addressesOf(n).includes(a)).toBe(isThere);
            }
        }
        expect(pins.size).toBeLessThanOrEqual(limits.pinsMax);
        pins.removeExpired();
        expect(pins.size).toBe(new Set(model.map((pin) => `${pin.name} ${pin.address}`)).size);
      }),
    );
  });
});
