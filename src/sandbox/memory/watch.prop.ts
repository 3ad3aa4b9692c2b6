/** For all events, orders and times: nothing is dropped without being counted. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { GuestEvent } from '../../machine/guest/guest.ts';
import type { MemoryEvent } from '../contract/memory-events.ts';
import { MEMORY_LIMITS, MemoryWatch } from './watch.ts';

const bytes = fc.nat();
const percent = fc.double({ min: 0, max: 100, noNaN: true });
const amount = { memoryBytes: bytes, limitBytes: bytes };
const victim = fc.option(fc.record({ pid: fc.nat(), name: fc.string(), rssBytes: bytes }));
const told = fc.oneof(
  fc.record({ type: fc.constant('pressure'), ...amount, some: percent, full: percent }),
  fc.record({ type: fc.constant('near_oom'), ...amount }),
  fc.record({ type: fc.constant('oom'), victim, detail: fc.string({ minLength: 490, maxLength: 520 }) }),
);
const step = fc.record({
  event: fc.oneof(
    { weight: 9, arbitrary: told },
    { weight: 1, arbitrary: fc.record({ type: fc.constant('dropped'), count: fc.nat(1000) }) },
  ),
  isHost: fc.boolean(),
  afterMs: fc.oneof({ weight: 9, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(2000) }),
  /** The host's wall clock steps arbitrarily. */
  wallMs: fc.integer(),
});

it('MemoryWatch: every event is emitted or counted, within its budget', () => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 40, maxLength: 300, size: 'max' }), (steps) => {
      const watch = new MemoryWatch(0);
      const out: MemoryEvent[] = [];
      let now = 0;
      let put = 0;
      for (const { event, isHost, afterMs, wallMs } of steps) {
        now += afterMs;
        put += event.type === 'dropped' ? event.count : 1;
        const guest = { highEvents: 0, oomKills: 0, ...event } as unknown as GuestEvent;
        if (isHost && event.type !== 'dropped') {
          out.push(...watch.fromHost(event as never, now, wallMs));
        } else out.push(...watch.fromGuest(guest, now, wallMs));
      }
      // Dropped events are reported with the next emitted one; a minute refills the budget.
      const last = { type: 'oom', oomKills: 1, detail: '', victim: null } as const;
      out.push(...watch.fromGuest(last, now + 60_000, 0));
      const counted = out.map((event) => (event.type === 'dropped' ? event.count : 1));
      expect(counted.reduce((sum, n) => sum + n, 0)).toBe(put + 1);
      for (const type of ['pressure', 'near_oom', 'oom']) {
        const most = MEMORY_LIMITS.burst + (now / 1000) * MEMORY_LIMITS.perSecond + 2;
        expect(out.filter((event) => event.type === type).length).toBeLessThanOrEqual(most);
      }
      for (const event of out) {
        if (event.type === 'oom') {
          expect(event.detail.length).toBeLessThanOrEqual(MEMORY_LIMITS.detailCharactersMax);
        }
      }
    }),
  );
});
