import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Arrival, type Ticket, TokenScheduler } from './token-scheduler.ts';

const AGING_MS = 1000;
const COST_MAX = 100;
const FLOWS = ['a', 'b', 'c', 'd'] as const;

const cost = fc.integer({ min: 1, max: COST_MAX });
const slots = fc.integer({ min: 1, max: 4 });

function endOne(scheduler: TokenScheduler, running: Ticket[], pick: number, real: number): Ticket {
  const [ended] = running.splice(pick % running.length, 1);
  if (ended === undefined) throw new Error('none runs');
  scheduler.charge(ended, real);
  scheduler.remove(ended);
  return ended;
}

const step = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('add' as const),
      tenant: fc.constantFrom('s', 't'),
      sandbox: fc.constantFrom(...FLOWS),
      band: fc.nat({ max: 2 }),
      cost,
    }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('next' as const) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('remove' as const), pick: fc.nat({ max: 99 }) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('charge' as const),
      pick: fc.nat({ max: 99 }),
      cost: fc.nat({ max: COST_MAX }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('wait' as const), ms: fc.nat({ max: 2500 }) }) },
);

describe('TokenScheduler properties', () => {
  it('TokenScheduler: no slot is idle while a request waits, a tenant’s best band goes first, and nothing leaks', () => {
    fc.assert(
      fc.property(slots, fc.array(step, { maxLength: 120 }), (count, steps) => {
        const scheduler = new TokenScheduler({ slots: count, agingMs: AGING_MS });
        const waiting: Ticket[] = [];
        const running: Ticket[] = [];
        let nowMs = 0;
        const aged = ({ band, arrivedAtMs }: Ticket): number =>
          Math.max(0, band - Math.floor((nowMs - arrivedAtMs) / AGING_MS));
        const lineOf = (one: Ticket): Ticket[] =>
          waiting.filter(({ tenant, sandbox }) => tenant === one.tenant && sandbox === one.sandbox);
        const firsts = (): Ticket[] => waiting.filter((one) => lineOf(one)[0] === one);
        for (const one of steps) {
          if (one.kind === 'add') waiting.push(scheduler.add(one, nowMs));
          else if (one.kind === 'wait') nowMs += one.ms;
          else if (one.kind === 'next') {
            const isPossible = waiting.length > 0 && running.length < count;
            const ticket = scheduler.next(nowMs);
            expect(ticket !== undefined).toBe(isPossible);
            if (ticket === undefined) continue;
            expect(firsts()).toContain(ticket);
            const own = firsts().filter(({ tenant }) => tenant === ticket.tenant);
            const worse = own.filter(({ band }) => band >= ticket.band);
            expect(Math.min(...worse.map(aged))).toBe(Math.min(...own.map(aged)));
            running.push(...waiting.splice(waiting.indexOf(ticket), 1));
          } else {
            const all = [...waiting, ...running];
            const ticket = all[one.pick % Math.max(1, all.length)];
            if (ticket === undefined) continue;
            if (one.kind === 'charge') scheduler.charge(ticket, one.cost);
            else {
              // A second removal frees no slot of another request.
              for (const _ of [1, 2]) scheduler.remove(ticket);
              const list = waiting.includes(ticket) ? waiting : running;
              list.splice(list.indexOf(ticket), 1);
            }
          }
          expect([scheduler.waiting, scheduler.running]).toEqual([waiting.length, running.length]);
        }
        for (const ticket of [...waiting, ...running]) scheduler.remove(ticket);
        expect([scheduler.waiting, scheduler.running]).toEqual([0, 0]);
      }),
      { numRuns: 500 },
    );
  });

  it('TokenScheduler: with one slot and exact costs, the flow with the least service is next, as in a naive model', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(cost, cost, cost), { minLength: 1, maxLength: 40 }), (rounds) => {
        const scheduler = new TokenScheduler({ slots: 1, agingMs: AGING_MS });
        const names = ['a', 'b', 'c'];
        const costs = names.map((_, i) => rounds.map((each) => each[i] ?? 1));
        for (const [i, sandbox] of names.entries()) {
          for (const each of costs[i] ?? []) scheduler.add({ tenant: 't', sandbox, band: 1, cost: each }, 0);
        }
        const had = names.map(() => 0);
        const left = costs.map((each) => [...each]);
        while (scheduler.waiting > 0) {
          const ticket = scheduler.next(0);
          if (ticket === undefined) throw new Error('the slot is free');
          const i = names.indexOf(ticket.sandbox);
          const open = had.filter((_, j) => (left[j] ?? []).length > 0);
          expect(had[i]).toBe(Math.min(...open));
          expect(left[i]?.shift()).toBe(ticket.cost);
          had[i] = (had[i] ?? 0) + ticket.cost;
          scheduler.remove(ticket);
        }
        expect(had).toEqual(costs.map((each) => each.reduce((sum, one) => sum + one, 0)));
      }),
      { numRuns: 300 },
    );
  });

  /** The paper bounds the difference by what can run at a time, however long it lasts. */
  it.each(['sandboxes', 'tenants'] as const)(
    'TokenScheduler: %s that always wait get the same service, within twice what the slots hold',
    (level) => {
      const play = fc.record({
        real: fc.nat({ max: COST_MAX }),
        estimate: cost,
        pick: fc.nat({ max: 9 }),
        guest: fc.boolean(),
        // Tenants gain nothing by their bands, sandboxes do.
        band: level === 'tenants' ? fc.nat({ max: 2 }) : fc.constant(1),
        ms: fc.nat({ max: AGING_MS }),
      });
      fc.assert(
        fc.property(slots, fc.array(play, { minLength: 50, maxLength: 400 }), (count, plays) => {
          const scheduler = new TokenScheduler({ slots: count, agingMs: AGING_MS });
          let nowMs = 0;
          const of = (name: string): Omit<Arrival, 'cost' | 'band'> =>
            level === 'tenants' ? { tenant: name, sandbox: 's' } : { tenant: 't', sandbox: name };
          const nameOf = (ticket: Ticket): string => ticket[level === 'tenants' ? 'tenant' : 'sandbox'];
          const backlogged = ['a', 'b', 'c'];
          const had = new Map<string, number>();
          const add = (name: string, estimate: number, band: number) =>
            scheduler.add({ ...of(name), band, cost: estimate }, nowMs);
          for (const name of backlogged) for (let i = 0; i <= count; i += 1) add(name, 50, 1);
          const running: Ticket[] = [];
          for (const { real, estimate, pick, guest, band, ms } of plays) {
            nowMs += ms;
            if (guest) add('guest', estimate, band);
            for (let next = scheduler.next(nowMs); next !== undefined; next = scheduler.next(nowMs)) {
              running.push(next);
              if (backlogged.includes(nameOf(next))) add(nameOf(next), estimate, band);
            }
            const ended = endOne(scheduler, running, pick, real);
            had.set(nameOf(ended), (had.get(nameOf(ended)) ?? 0) + real);
            const all = backlogged.map((name) => had.get(name) ?? 0);
            const difference = Math.max(...all) - Math.min(...all);
            expect(difference).toBeLessThanOrEqual(2 * count * COST_MAX);
          }
        }),
        { numRuns: 200 },
      );
    },
  );

  it('TokenScheduler: a flow that comes late or returns gets no credit for the time before', () => {
    fc.assert(
      fc.property(
        fc.array(cost, { minLength: 1, maxLength: 60 }),
        fc.array(cost, { minLength: 30, maxLength: 60 }),
        fc.boolean(),
        (before, after, wasThere) => {
          const scheduler = new TokenScheduler({ slots: 1, agingMs: AGING_MS });
          const add = (sandbox: string, one: number) => scheduler.add({ tenant: 't', sandbox, band: 1, cost: one }, 0);
          if (wasThere) scheduler.remove(add('late', 1));
          for (const one of [...before, ...after]) add('early', one);
          for (const _ of before) {
            const next = scheduler.next(0);
            if (next !== undefined) scheduler.remove(next);
          }
          for (const one of after) add('late', one);
          const had = { early: 0, late: 0 };
          for (const _ of after) {
            const next = scheduler.next(0);
            if (next === undefined) throw new Error('the slot is free');
            had[next.sandbox as keyof typeof had] += next.cost;
            scheduler.remove(next);
            expect(Math.abs(had.early - had.late)).toBeLessThanOrEqual(2 * COST_MAX);
          }
        },
      ),
      { numRuns: 300 },
    );
  });

  it('TokenScheduler: an aged request runs soon, however many flows of better bands wait', () => {
    fc.assert(
      fc.property(slots, fc.array(cost, { minLength: 200, maxLength: 200 }), (count, costs) => {
        const scheduler = new TokenScheduler({ slots: count, agingMs: AGING_MS });
        const hogs = FLOWS.map((sandbox) => ({ tenant: 't', sandbox, band: 0 }));
        for (const hog of hogs) for (let i = 0; i <= count; i += 1) scheduler.add({ ...hog, cost: 1 }, 0);
        const batch = scheduler.add({ tenant: 't', sandbox: 'batch', band: 2, cost: COST_MAX }, 0);
        let agedTurns = 0;
        for (const [i, each] of costs.entries()) {
          const nowMs = i * 40;
          const running: Ticket[] = [];
          for (let next = scheduler.next(nowMs); next !== undefined; next = scheduler.next(nowMs)) {
            running.push(next);
            if (next === batch) {
              // Until then, a better band goes first.
              expect(nowMs).toBeGreaterThanOrEqual(2 * AGING_MS);
              return;
            }
            scheduler.add({ ...next, cost: each }, nowMs);
          }
          for (const each of running) scheduler.remove(each);
          if (nowMs >= 2 * AGING_MS) agedTurns += 1;
          // Its counter is at most one request of each hog behind theirs.
          expect(agedTurns).toBeLessThanOrEqual(FLOWS.length * COST_MAX);
        }
        throw new Error('the batch request starved');
      }),
      { numRuns: 100 },
    );
  });

  /** A new tenant's, in whatever bands; a new sandbox's, in the same band. */
  it.each(['sandbox', 'tenant'] as const)(
    'TokenScheduler: the request of a new %s gets the next free slot, whatever a hog runs and was estimated to use',
    (level) => {
      const band = level === 'tenant' ? fc.nat({ max: 2 }) : fc.constant(1);
      const request = fc.record({ estimate: cost, real: cost, band });
      fc.assert(
        fc.property(
          slots,
          fc.array(request, { minLength: 10, maxLength: 40 }),
          fc.nat({ max: 9 }),
          band,
          (count, requests, pick, politeBand) => {
            const scheduler = new TokenScheduler({ slots: count, agingMs: AGING_MS });
            const real = new Map<Ticket, number>();
            const add = (name: string, one: { estimate: number; real: number; band: number }): Ticket => {
              const flow = level === 'tenant' ? { tenant: name, sandbox: 's' } : { tenant: 't', sandbox: name };
              const ticket = scheduler.add({ ...flow, band: one.band, cost: one.estimate }, 0);
              real.set(ticket, Math.min(one.real, one.estimate));
              return ticket;
            };
            for (const each of requests) add('hog', each);
            const running: Ticket[] = [];
            const dispatch = (): void => {
              for (let next = scheduler.next(0); next !== undefined; next = scheduler.next(0)) running.push(next);
            };
            const end = (): void => {
              const place = pick % running.length;
              const ended = running[place];
              endOne(scheduler, running, place, (ended && real.get(ended)) ?? 1);
            };
            dispatch();
            for (let i = 0; i < 3; i += 1) {
              end();
              dispatch();
            }
            const polite = add('polite', { estimate: 50, real: 50, band: politeBand });
            end();
            expect(scheduler.next(0)).toBe(polite);
          },
        ),
        { numRuns: 300 },
      );
    },
  );

  it('TokenScheduler: a flow whose requests wait for each other does not overtake its band by their age', () => {
    const scheduler = new TokenScheduler({ slots: 1, agingMs: AGING_MS });
    const add = (sandbox: string, nowMs: number) => scheduler.add({ tenant: 't', sandbox, band: 1, cost: 10 }, nowMs);
    for (let i = 0; i < 20; i += 1) add('hog', 0);
    for (let i = 0; i < 3; i += 1) scheduler.remove(scheduler.next(0) ?? add('x', 0));
    const running = scheduler.next(0);
    // By now the hog's next request has aged by several bands.
    const polite = add('polite', 4 * AGING_MS);
    scheduler.remove(running ?? polite);
    expect(scheduler.next(4 * AGING_MS)).toBe(polite);
  });

  it('TokenScheduler: when a better band stops, worse ones get no credit for the past', () => {
    const scheduler = new TokenScheduler({ slots: 1, agingMs: AGING_MS });
    const add = (sandbox: string, band: number) => scheduler.add({ tenant: 't', sandbox, band, cost: 10 }, 0);
    for (let i = 0; i < 300; i += 1) add('chat', 0);
    for (let i = 0; i < 100; i += 1) add('batch', 2);
    for (let i = 0; i < 200; i += 1) scheduler.remove(scheduler.next(0) ?? add('x', 0));
    // Both have aged, so they take turns.
    const order = Array.from({ length: 10 }, () => {
      const next = scheduler.next(5 * AGING_MS);
      if (next !== undefined) scheduler.remove(next);
      return next?.sandbox;
    });
    expect(order.filter((name) => name === 'batch')).toHaveLength(5);
  });
});
