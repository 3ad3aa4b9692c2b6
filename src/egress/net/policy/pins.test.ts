import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../../base/clock.ts';
import { PIN_SECONDS_MAX, PIN_SECONDS_MIN, Pins, pinSeconds } from './pins.ts';

describe('Pins', () => {
  it('holds name and address, both ways, until they expire', () => {
    const clock = new FakeClock();
    const pins = new Pins(clock);
    expect(pins.pin('a.example', ['192.0.2.1', '192.0.2.2'], 60)).toEqual({
      ok: true,
      pins: [
        { name: 'a.example', address: '192.0.2.1', seconds: 60 },
        { name: 'a.example', address: '192.0.2.2', seconds: 60 },
      ],
    });
    pins.pin('b.example', ['192.0.2.1'], 100);
    expect(pins.isPinned('a.example', '192.0.2.2')).toBe(true);
    expect(pins.isPinned('b.example', '192.0.2.2')).toBe(false);
    expect(pins.namesOf('192.0.2.1')).toEqual(['a.example', 'b.example']);
    clock.advance(59_999);
    expect(pins.isPinned('a.example', '192.0.2.1')).toBe(true);
    clock.advance(1);
    expect(pins.isPinned('a.example', '192.0.2.1')).toBe(false);
    expect(pins.addressesOf('a.example')).toEqual([]);
    expect(pins.namesOf('192.0.2.1')).toEqual(['b.example']);
    expect(pins.size).toBe(3);
    pins.removeExpired();
    expect(pins.size).toBe(1);
  });
  it('returns live pins with the remaining seconds', () => {
    const clock = new FakeClock();
    const pins = new Pins(clock);
    pins.pin('a.example', ['192.0.2.1'], 60);
    pins.pin('b.example', ['192.0.2.1'], 100);
    clock.advance(60_000);
    expect(pins.live()).toEqual([{ name: 'b.example', address: '192.0.2.1', seconds: 40 }]);
  });
  it('clamps the TTL', () => {
    expect([0, 29, 30, 31, 3600, 3601, 2 ** 31].map(pinSeconds)).toEqual([
      PIN_SECONDS_MIN,
      PIN_SECONDS_MIN,
      30,
      31,
      PIN_SECONDS_MAX,
      PIN_SECONDS_MAX,
      PIN_SECONDS_MAX,
    ]);
  });
  it('never shortens a pin', () => {
    const clock = new FakeClock();
    const pins = new Pins(clock);
    pins.pin('a.example', ['192.0.2.1'], 600);
    pins.pin('a.example', ['192.0.2.1'], 30);
    clock.advance(599_000);
    expect(pins.isPinned('a.example', '192.0.2.1')).toBe(true);
    expect(pins.size).toBe(1);
  });
  it('refuses what exceeds a limit as a whole, and reuses room of expired pins', () => {
    const clock = new FakeClock();
    const pins = new Pins(clock, { namesMax: 2, addressesPerNameMax: 2, pinsMax: 3 });
    expect(pins.pin('a', ['192.0.2.1', '192.0.2.2', '192.0.2.3'], 30)).toEqual({
      ok: false,
      reason: 'too_many_addresses',
    });
    expect(pins.size).toBe(0);
    pins.pin('a', ['192.0.2.1', '192.0.2.2'], 30);
    pins.pin('b', ['192.0.2.1'], 60);
    expect(pins.pin('b', ['192.0.2.9'], 60)).toEqual({ ok: false, reason: 'too_many_addresses' });
    expect(pins.pin('c', ['192.0.2.1'], 60)).toEqual({ ok: false, reason: 'too_many_names' });
    expect(pins.isPinned('a', '192.0.2.1')).toBe(true);
    clock.advance(30_000);
    expect(pins.pin('c', ['192.0.2.1'], 60).ok).toBe(true);
    expect(pins.isPinned('c', '192.0.2.1')).toBe(true);
  });
  it('forgets names that are not kept', () => {
    const pins = new Pins(new FakeClock());
    pins.pin('a', ['192.0.2.1'], 60);
    pins.pin('b', ['192.0.2.1'], 60);
    pins.retain((name) => name === 'b');
    expect(pins.namesOf('192.0.2.1')).toEqual(['b']);
    expect(pins.size).toBe(1);
  });
  it('counts an address once for each port, even if ports were added', () => {
    const clock = new FakeClock();
    let ports = 2;
    const pins = new Pins(clock, { destinationsMax: 6 }, (name) => (name === 'web' ? 0 : ports));
    expect(pins.pin('a', ['192.0.2.1', '192.0.2.2'], 60).ok).toBe(true);
    expect(pins.pin('b', ['192.0.2.1', '192.0.2.2'], 60)).toEqual({ ok: false, reason: 'too_many_addresses' });
    expect(pins.pin('b', ['192.0.2.1'], 60).ok).toBe(true);
    expect(pins.pin('b', ['192.0.2.1'], 60).ok).toBe(true);
    expect(pins.pin('web', ['192.0.2.7'], 60).ok).toBe(true);
    ports = 3;
    pins.retain(() => true);
    expect(pins.live().map(({ name }) => name)).toEqual(['a', 'a', 'web']);
    expect(pins.pin('c', ['192.0.2.1'], 60).ok).toBe(false);
    ports = 2;
    pins.retain(() => true);
    expect(pins.pin('c', ['192.0.2.1'], 60).ok).toBe(true);
    pins.unpin([{ name: 'c', address: '192.0.2.1' }]);
    expect(pins.isPinned('c', '192.0.2.1')).toBe(false);
    expect(pins.pin('d', ['192.0.2.1'], 60).ok).toBe(true);
  });
});
