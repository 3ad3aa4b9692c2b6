import fc from 'fast-check';
import { expect, it } from 'vitest';
import { FakeClock } from '../../../base/clock.ts';
import { QUEUE_LIMITS, type Turn, UpstreamQueues } from './upstream-queues.ts';

const step = fc.record({
  kind: fc.constantFrom('enter', 'enter', 'enter', 'abort', 'release', 'charge', 'wait'),
  pick: fc.nat({ max: 99 }),
  sandboxId: fc.constantFrom('a', 'b', 'c'),
  tenant: fc.constantFrom(null, 's', 't'),
  slots: fc.constantFrom(1, 2, 5),
});

const LIMITS = { ...QUEUE_LIMITS, waiting: { sumMax: 8, ownMax: 6, guaranteed: 2, places: 3 }, waitMsMax: 1000 };

it('UpstreamQueues: whatever leaves when, no slot and no place is lost, and no request waits beside a free slot', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      const clock = new FakeClock();
      const queues = new UpstreamQueues(clock, LIMITS);
      const turns: Turn[] = [];
      const aborters: AbortController[] = [];
      const results: Promise<void>[] = [];
      const ends = { turn: 0, refused: 0, aborted: 0 };
      let slots = 1;
      const enter = (one: (typeof steps)[number]): void => {
        const aborter = new AbortController();
        aborters.push(aborter);
        slots = one.slots;
        const target = { name: 'u', baseUrl: 'http://127.0.0.1:1', slots };
        const request = { ...one, priority: 'normal' as const, inputTokens: 5, outputTokens: 5 };
        const entered = queues.enter(target, request, aborter.signal).then(
          (turn) => {
            ends[turn.ok ? 'turn' : 'refused'] += 1;
            // An exchange that was canceled meanwhile does the same.
            if (turn.ok && aborter.signal.aborted) turn.value.release();
            else if (turn.ok) turns.push(turn.value);
          },
          (reason: unknown) => {
            expect(reason).toBe(aborter.signal.reason);
            ends.aborted += 1;
          },
        );
        results.push(entered);
      };
      for (const one of steps) {
        const turn = turns[one.pick % Math.max(1, turns.length)];
        if (one.kind === 'enter') enter(one);
        else if (one.kind === 'abort') aborters[one.pick % Math.max(1, aborters.length)]?.abort();
        else if (one.kind === 'wait') clock.advance(one.pick * 20);
        else if (one.kind === 'charge') turn?.charge(one.pick, one.pick);
        else if (turn !== undefined) {
          // A second release frees no other slot.
          for (const _ of [1, 2]) turn.release();
          turns.splice(turns.indexOf(turn), 1);
        }
        await new Promise(setImmediate);
        const { waiting, running } = queues.counts();
        expect(running).toBe(turns.length);
        if (waiting > 0) expect(running).toBeGreaterThanOrEqual(slots);
        else expect(queues.longestWaitMs()).toBe(0);
        expect(queues.longestWaitMs()).toBeLessThan(LIMITS.waitMsMax);
        expect(waiting).toBeLessThanOrEqual(LIMITS.waiting.sumMax);
      }
      for (const each of aborters) each.abort();
      for (const turn of turns) turn.release();
      await Promise.all(results);
      expect(queues.counts()).toEqual({ waiting: 0, running: 0 });
      expect(ends.turn + ends.refused + ends.aborted).toBe(results.length);
      // All places are free again.
      const again = new AbortController();
      const asks = Array.from({ length: 1 + LIMITS.waiting.guaranteed }, () =>
        queues.enter(
          { name: 'u', baseUrl: 'http://127.0.0.1:1', slots: 1 },
          { tenant: 'new', sandboxId: 'x', priority: 'batch', inputTokens: 0, outputTokens: 0 },
          again.signal,
        ),
      );
      expect((await asks[0])?.ok).toBe(true);
      expect(queues.counts()).toEqual({ waiting: LIMITS.waiting.guaranteed, running: 1 });
      again.abort();
      await Promise.allSettled(asks);
    }),
    { numRuns: 150 },
  );
});

it('UpstreamQueues: the load of a server without slots is its current number of requests', async () => {
  const queues = new UpstreamQueues(new FakeClock());
  const target = { name: 'u', baseUrl: 'http://127.0.0.1:1' };
  const request = { tenant: null, sandboxId: 'a', priority: 'normal' as const, inputTokens: 1, outputTokens: 1 };
  const enter = () => queues.enter(target, request, new AbortController().signal);
  const turns = (await Promise.all([enter(), enter()])).flatMap((turn) => (turn.ok ? [turn.value] : []));
  expect(queues.load(target)).toEqual({ requests: 2, isBusy: false });
  turns[0]?.release();
  turns[0]?.release();
  expect(queues.load(target)).toEqual({ requests: 1, isBusy: false });
  turns[1]?.release();
  expect(queues.load(target)).toEqual({ requests: 0, isBusy: false });
  expect(queues.counts()).toEqual({ waiting: 0, running: 0 });
});

it('UpstreamQueues: the longest wait is that of the oldest waiting request of all servers', async () => {
  const clock = new FakeClock();
  const queues = new UpstreamQueues(clock);
  const leave = new AbortController();
  const enter = (port: number, priority: 'batch' | 'interactive') =>
    queues.enter(
      { name: 'u', baseUrl: `http://127.0.0.1:${port}`, slots: 1 },
      { tenant: null, sandboxId: priority, priority, inputTokens: 1, outputTokens: 1 },
      leave.signal,
    );
  const [one] = await Promise.all([enter(1, 'batch'), enter(2, 'batch')]);
  const waiting = [enter(1, 'batch')];
  clock.advance(300);
  waiting.push(enter(2, 'batch'), enter(1, 'interactive'));
  clock.advance(50);
  expect(queues.longestWaitMs()).toBe(350);
  // The interactive request takes its place; the oldest still waits.
  if (one.ok) one.value.release();
  expect(queues.longestWaitMs()).toBe(350);
  leave.abort();
  await Promise.allSettled(waiting);
  expect(queues.longestWaitMs()).toBe(0);
});

it('UpstreamQueues: a tenant waits no longer than one service time, however many better requests another has', async () => {
  const clock = new FakeClock();
  const queues = new UpstreamQueues(clock);
  const serviceMs = 2000;
  const enter = (tenant: string, priority: 'interactive' | 'normal') =>
    queues.enter(
      { name: 'u', baseUrl: 'http://127.0.0.1:1', slots: 4 },
      { tenant, sandboxId: `${tenant}-1`, priority, inputTokens: 100, outputTokens: 100 },
      new AbortController().signal,
    );
  const waitsMs: number[] = [];
  const serve = async (tenant: string, priority: 'interactive' | 'normal'): Promise<void> => {
    const atMs = clock.now();
    const turn = await enter(tenant, priority);
    if (!turn.ok) throw new Error('refused');
    if (tenant === 'polite') waitsMs.push(clock.now() - atMs);
    clock.after(serviceMs, () => {
      turn.value.release();
      // The one keeps 64 waiting, the other asks one after the other.
      if (tenant === 'hog') void serve('hog', 'interactive');
      else if (waitsMs.length < 5) void serve('polite', 'normal');
    });
  };
  for (let i = 0; i < 68; i += 1) void serve('hog', 'interactive');
  await new Promise(setImmediate);
  void serve('polite', 'normal');
  for (let i = 0; i < 20; i += 1) {
    clock.advance(serviceMs);
    await new Promise(setImmediate);
  }
  expect(waitsMs).toHaveLength(5);
  expect(Math.max(...waitsMs)).toBeLessThanOrEqual(serviceMs);
});
