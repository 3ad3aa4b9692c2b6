import { expect, it } from 'vitest';
import { RECENT_LIMITS, RecentEvents } from './recent-events.ts';

const { eventsMax, perSandboxMax } = RECENT_LIMITS;
const dropped = (seq: number) => ({ type: 'dropped', count: 1, seq, atMs: seq }) as const;

it('RecentEvents: a flood of one sandbox does not displace the events of others', () => {
  const recent = new RecentEvents();
  recent.note('quiet', dropped(1));
  for (let seq = 1; seq <= 1000; seq++) recent.note('loud', dropped(seq));
  const kept = recent.list();
  expect(kept.map(({ sandbox }) => sandbox)).toContain('quiet');
  const loud = kept.filter(({ sandbox }) => sandbox === 'loud').map(({ seq }) => seq);
  expect(loud).toHaveLength(perSandboxMax);
  expect([loud.at(0), loud.at(-1)]).toEqual([1001 - perSandboxMax, 1000]);
});

it('RecentEvents: keeps the newest events of all sandboxes', () => {
  const recent = new RecentEvents();
  for (let seq = 1; seq <= 2 * eventsMax; seq++) recent.note(`s${seq}`, dropped(seq));
  expect(recent.list()).toHaveLength(eventsMax);
  expect(recent.list()[0]?.sandbox).toBe(`s${eventsMax + 1}`);
});
