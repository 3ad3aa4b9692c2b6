import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import { NO_EVIDENCE } from '../contract/ending.ts';
import type { SandboxEventBody } from '../contract/events.ts';
import { EventJournal, JOURNAL_LIMITS, RECENT_LIMITS, RecentEvents } from './event-journal.ts';

const NEAR: SandboxEventBody = { type: 'near_oom', source: 'guest', memoryBytes: 1, limitBytes: 2 };
const END: SandboxEventBody = { type: 'end', end: { cause: 'stopped', detail: '', atMs: 1, evidence: NO_EVIDENCE } };

const never = new AbortController().signal;

async function numbers(journal: EventJournal, after = 0, signal = never): Promise<number[]> {
  const seen: number[] = [];
  for await (const { seq } of journal.read(after, signal)) seen.push(seq);
  return seen;
}

describe('EventJournal', () => {
  it('note: numbers and timestamps events, and keeps the newest', () => {
    const journal = new EventJournal(new FakeClock(5000));
    for (let n = 0; n < JOURNAL_LIMITS.eventsMax + 3; n += 1) journal.note(NEAR);
    const kept = journal.since(0);
    expect(kept).toHaveLength(JOURNAL_LIMITS.eventsMax);
    expect(kept[0]).toEqual({ ...NEAR, seq: 4, atMs: 5000 });
    expect(journal.since(JOURNAL_LIMITS.eventsMax + 2)).toHaveLength(1);
  });

  it('since: a number of a version that began anew returns all kept events', () => {
    const journal = new EventJournal(new FakeClock());
    journal.note(NEAR);
    expect(journal.since(57)).toHaveLength(1);
  });

  it('reserve: the next process goes on above, in blocks; this one has no gap', () => {
    const journal = new EventJournal(new FakeClock());
    const last = journal.reserve();
    for (let n = 0; n <= JOURNAL_LIMITS.reserved / 2; n += 1) {
      expect(journal.isShort).toBe(false);
      journal.note(NEAR);
    }
    expect(journal.isShort).toBe(true);
    const further = journal.reserve();
    expect([journal.isShort, further > last]).toEqual([false, true]);
    const next = new EventJournal(new FakeClock(), undefined, further);
    next.note(NEAR);
    expect(next.since(0)).toMatchObject([{ seq: further + 1 }]);
    expect(next.since(journal.since(0).at(-1)?.seq ?? 0)).toHaveLength(1);
  });

  it('skipTo: only what another process has reserved is skipped', () => {
    const journal = new EventJournal(new FakeClock());
    const last = journal.reserve();
    journal.note(NEAR);
    journal.skipTo(last);
    journal.note(NEAR);
    journal.skipTo(last + 9);
    journal.note(NEAR);
    expect(journal.since(0).map(({ seq }) => seq)).toEqual([1, 2, last + 10]);
  });

  it('read: yields kept events, then new ones, until the end', async () => {
    const journal = new EventJournal(new FakeClock());
    journal.note(NEAR);
    const all = numbers(journal);
    const later = numbers(journal, 1);
    await Promise.resolve();
    journal.note(NEAR);
    journal.note(END);
    journal.note(NEAR);
    expect(await all).toEqual([1, 2, 3]);
    expect(await later).toEqual([2, 3]);
  });

  it('note: ignores events after the end', () => {
    const journal = new EventJournal(new FakeClock());
    journal.note(END);
    journal.note(NEAR);
    expect(journal.since(0)).toMatchObject([{ type: 'end', seq: 1 }]);
  });

  it('read: ends when the signal aborts', async () => {
    const journal = new EventJournal(new FakeClock());
    const aborter = new AbortController();
    const all = numbers(journal, 0, aborter.signal);
    journal.note(NEAR);
    await new Promise((resolve) => setImmediate(resolve));
    aborter.abort();
    expect(await all).toEqual([1]);
  });

  it('read: a stalled reader loses the oldest events, not the end', async () => {
    const journal = new EventJournal(new FakeClock());
    const reading = journal.read(0, never);
    const first = reading.next();
    journal.note(NEAR);
    await first;
    for (let n = 0; n < 5000; n += 1) journal.note(NEAR);
    journal.note(END);
    const rest: number[] = [];
    for await (const { seq } of reading) rest.push(seq);
    expect(rest).toHaveLength(JOURNAL_LIMITS.waitingMax);
    expect(rest.at(-1)).toBe(5002);
  });

  it('listen: a listener that throws does not stop the others', () => {
    const journal = new EventJournal(new FakeClock(), () => {
      throw new Error('no');
    });
    const seen: number[] = [];
    journal.listen(({ seq }) => void seen.push(seq));
    journal.note(NEAR);
    expect(seen).toEqual([1]);
  });
});

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
