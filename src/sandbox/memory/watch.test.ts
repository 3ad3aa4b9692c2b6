import { describe, expect, it } from 'vitest';
import type { GuestEvent } from '../../machine/guest/guest.ts';
import { MEMORY_LIMITS, MemoryWatch } from './watch.ts';

const PRESSURE: GuestEvent = { type: 'pressure', memoryBytes: 90, limitBytes: 100, highEvents: 3, some: 40, full: 10 };
const NEAR: GuestEvent = { type: 'near_oom', memoryBytes: 95, limitBytes: 100 };
const VICTIM = { pid: 7, name: 'python3', rssBytes: 4096 };
const OOM: GuestEvent = { type: 'oom', oomKills: 1, detail: 'killed', victim: VICTIM };

describe('MemoryWatch', () => {
  it('guest and host events form one stream, each with its source', () => {
    const watch = new MemoryWatch(0);
    expect(watch.fromGuest(PRESSURE, 0, 1)).toEqual([
      { type: 'pressure', source: 'guest', memoryBytes: 90, limitBytes: 100, some: 40, full: 10 },
    ]);
    const near = { type: 'near_oom', memoryBytes: 5, limitBytes: 6 } as const;
    expect(watch.fromHost(near, 1, 2)).toEqual([{ ...near, source: 'host' }]);
    expect(watch.fromGuest(OOM, 2, 3)).toEqual([{ type: 'oom', source: 'guest', victim: VICTIM, detail: 'killed' }]);
    expect(watch.fromGuest({ type: 'log', level: 'info', message: 'x' }, 3, 4)).toEqual([]);
  });

  it('marks: keeps the last event of each kind, even if it was dropped', () => {
    const watch = new MemoryWatch(0);
    for (let n = 0; n < 100; n += 1) watch.fromGuest({ ...NEAR, memoryBytes: n }, 0, 1000 + n);
    expect(watch.lastPressure).toMatchObject({ type: 'near_oom', memoryBytes: 99, atMs: 1099 });
    watch.fromGuest(OOM, 0, 5);
    expect(watch.lastOom).toEqual({ source: 'guest', victim: VICTIM, detail: 'killed', atMs: 5 });
  });

  it('flood: events are limited and counted per type', () => {
    const watch = new MemoryWatch(0);
    let told = 0;
    for (let n = 0; n < 10_000; n += 1) told += watch.fromGuest(PRESSURE, 0, 0).length;
    expect(told).toBe(MEMORY_LIMITS.burst);
    expect(watch.fromGuest({ type: 'dropped', count: 5 }, 0, 0)).toEqual([]);
    expect(watch.fromGuest(OOM, 0, 0)).toEqual([
      { type: 'dropped', count: 10_000 - MEMORY_LIMITS.burst + 5 },
      expect.objectContaining({ type: 'oom' }),
    ]);
    expect(watch.fromGuest(NEAR, 0, 0)).toHaveLength(1);
    expect(watch.fromGuest(PRESSURE, 1000, 0)).toEqual([expect.objectContaining({ type: 'pressure' })]);
  });

  it('security events: emitted with a bounded detail, and no memory mark', () => {
    const watch = new MemoryWatch(0);
    const what = 'vmm_exec' as const;
    const event = { type: 'security', what, detail: 'x'.repeat(9999) } as const;
    const [told] = watch.fromHost(event, 0, 1);
    const detail = 'x'.repeat(MEMORY_LIMITS.detailCharactersMax);
    expect(told).toEqual({ type: 'security', source: 'host', what, detail });
    expect([watch.lastPressure, watch.lastOom]).toEqual([null, null]);
    for (let n = 0; n < 100; n += 1) watch.fromHost(event, 0, 1);
    expect(watch.fromHost({ type: 'oom', victim: null, detail: '' }, 0, 1)).toHaveLength(2);
  });

  it('rate: stays below burst and rate over any time, independent of the wall clock', () => {
    const watch = new MemoryWatch(0);
    let told = 0;
    for (let now = 0; now <= 60_000; now += 10) {
      const wall = now % 3 === 0 ? 0 : 9e12;
      told += watch.fromGuest(NEAR, now, wall).filter(({ type }) => type === 'near_oom').length;
    }
    expect(told).toBeLessThanOrEqual(MEMORY_LIMITS.burst + 60 * MEMORY_LIMITS.perSecond + 1);
    expect(told).toBeGreaterThan(60);
  });

  it('dropped: a count beyond the safe range stays a number', () => {
    const watch = new MemoryWatch(0);
    const all = { type: 'dropped', count: Number.MAX_SAFE_INTEGER } as const;
    watch.fromGuest(all, 0, 0);
    watch.fromGuest(all, 0, 0);
    expect(watch.fromGuest(OOM, 0, 0)[0]).toEqual(all);
  });
});
