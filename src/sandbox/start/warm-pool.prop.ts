/**
 * The pool under arbitrary orders of events. First alone, with the test in control of every event; then with the start
 * queue, where fast-check's scheduler picks the start, check or request that continues next.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FakeMaker, FakeMember, settle } from '../../../test/support/fake-members.ts';
import { FakeClock } from '../../base/clock.ts';
import { type Log, silentLog } from '../../base/log.ts';
import { BusyError } from '../contract/errors.ts';
import { Handover, StartQueue } from './start-queue.ts';
import { BACKOFF_MS_MIN, REFILL_CONCURRENCY, WarmPool } from './warm-pool.ts';

class World {
  readonly clock = new FakeClock();
  readonly maker = new FakeMaker();
  readonly claimed = new Set<FakeMember>();
  /** Members that are known to be unhealthy or to have ended; must never be handed out. */
  readonly bad = new Set<FakeMember>();
  /** Requests that wait and take a new member. */
  waiting = 0;
  warnings = 0;
  claims = 0;
  readonly pool: WarmPool<FakeMember>;

  constructor() {
    const log: Log = { ...silentLog, warn: () => this.warnings++ };
    this.pool = new WarmPool({
      make: this.maker.make,
      offer: (member) => {
        if (this.waiting === 0) return false;
        this.waiting--;
        this.#hand(member);
        return true;
      },
      limits: { min: 2, max: 4 },
      clock: this.clock,
      log,
    });
  }

  claim(): void {
    this.claims++;
    const before = this.pool.stats();
    const member = this.pool.claim();
    if (member !== undefined) this.#hand(member);
    // After a miss, no ready member was fit to be handed out.
    else expect(this.pool.stats().discarded - before.discarded).toBe(before.ready);
  }

  #hand(member: FakeMember): void {
    expect(this.claimed.has(member)).toBe(false);
    expect(this.bad.has(member)).toBe(false);
    expect(member.alive).toBe(true);
    expect(member.discards).toBe(0);
    this.claimed.add(member);
  }

  get free(): FakeMember[] {
    return this.maker.members.filter((one) => !this.claimed.has(one) && one.discards === 0);
  }

  verify(): void {
    const { min, max, target, ready, starting, hits, misses, handedOver } = this.pool.stats();
    expect(target).toBeGreaterThanOrEqual(min);
    expect(target).toBeLessThanOrEqual(max);
    expect(ready + starting).toBeLessThanOrEqual(target);
    expect(this.maker.pending.length).toBeLessThanOrEqual(REFILL_CONCURRENCY);
    expect(ready).toBe(this.free.length);
    expect(hits + misses).toBe(this.claims);
    expect(hits + handedOver).toBe(this.claimed.size);
    for (const member of this.maker.members) {
      expect(member.discards).toBeLessThanOrEqual(1);
      if (this.claimed.has(member)) expect(member.discards).toBe(0);
    }
    // Never a busy loop: time bounds the number of makes without a claim.
    const spent = this.claims + this.claimed.size + this.clock.now() / BACKOFF_MS_MIN;
    expect(this.maker.calls).toBeLessThanOrEqual(this.slack + spent * (1 + REFILL_CONCURRENCY));
  }

  /** Members that new limits may add or remove. */
  slack = 8;
}

interface Event {
  readonly name: string;
  act(world: World): void;
}

const event = (name: string, act: (world: World) => void): Event => ({ name, act });
const pick = fc.nat({ max: 7 });
const pending = (world: World, index: number, act: (index: number) => void): void => {
  const { length } = world.maker.pending;
  if (length > 0) act(index % length);
};
const member = (world: World, index: number, act: (member: FakeMember) => void): void => {
  const { free } = world;
  const one = free[index % free.length];
  if (one !== undefined) act(one);
};

const events: fc.Arbitrary<Event> = fc.oneof(
  fc.constant(event('claim', (world) => world.claim())),
  fc.constant(event('wait', (world) => world.waiting++)),
  pick.map((index) => event(`made ${index}`, (world) => pending(world, index, (i) => world.maker.succeed(i)))),
  pick.map((index) =>
    event(`made, dead ${index}`, (world) =>
      pending(world, index, (i) => {
        const dead = world.maker.succeed(i);
        dead.end('quietly');
        world.bad.add(dead);
      }),
    ),
  ),
  pick.map((index) => event(`not made ${index}`, (world) => pending(world, index, (i) => world.maker.fail(i)))),
  fc.tuple(pick, fc.constantFrom('quietly' as const, 'noticed' as const)).map(([index, how]) =>
    event(`ends ${how} ${index}`, (world) =>
      member(world, index, (one) => {
        one.end(how);
        world.bad.add(one);
      }),
    ),
  ),
  fc.tuple(pick, fc.boolean()).map(([index, well]) =>
    event(`answers ${well} ${index}`, (world) =>
      member(world, index, (one) => {
        const check = one.asked.pop();
        if (well) check?.resolve();
        else if (check !== undefined) {
          check.reject(new Error('unwell'));
          world.bad.add(one);
        }
      }),
    ),
  ),
  fc
    .constantFrom(1, 500, 1000, 5000, 10_000, 60_000)
    .map((ms) => event(`${ms} ms`, (world) => world.clock.advance(ms))),
  fc.tuple(fc.nat({ max: 4 }), fc.nat({ max: 4 })).map(([min, more]) =>
    event(`limits ${min} ${min + more}`, (world) => {
      world.pool.setLimits({ min, max: min + more });
      world.slack += 8;
    }),
  ),
);

describe('WarmPool properties', () => {
  it('WarmPool: hands out only good members, each once, within the target; close leaves none', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(events, { maxLength: 80, size: 'max' }),
        fc.array(fc.constantFrom('made', 'failed'), { minLength: 8, maxLength: 8 }),
        async (happening, lastOnes) => {
          const world = new World();
          for (const { act } of happening) {
            act(world);
            await settle();
            world.verify();
          }
          const closing = world.pool.close();
          await settle();
          for (const outcome of lastOnes) {
            if (world.maker.pending.length === 0) break;
            if (outcome === 'made') world.maker.succeed();
            else world.maker.fail();
            await settle();
          }
          await closing;
          expect(world.free).toEqual([]);
          world.verify();
          expect(world.pool.stats()).toMatchObject({ ready: 0, starting: 0 });
          const { calls } = world.maker;
          world.clock.advance(600_000);
          await settle();
          expect(world.maker.calls).toBe(calls);
        },
      ),
      { numRuns: 500 },
    );
  });
});

const asked = fc.record({
  tenant: fc.constantFrom('a', 'b', 'c'),
  cancels: fc.nat({ max: 5 }).map((luck) => luck === 0),
  fails: fc.nat({ max: 5 }).map((luck) => luck === 0),
});

describe('WarmPool and StartQueue properties', () => {
  it('any order: every request ends, and no member is handed out twice or lost', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.scheduler(),
        fc.array(asked, { minLength: 1, maxLength: 24 }),
        fc.boolean(),
        async (scheduler, requests, closesEarly) => {
          const clock = new FakeClock();
          const queue = new StartQueue({
            concurrency: 2,
            totalMib: 4096,
            availableMib: () => 4096,
            waitingMax: 12,
            clock,
          });
          const handover = new Handover<FakeMember>();
          const made: FakeMember[] = [];
          const start = async (signal: AbortSignal, fails = false): Promise<FakeMember> => {
            await scheduler.schedule(Promise.resolve(), 'a start');
            if (fails || signal.aborted) throw new Error('not started');
            const one = new FakeMember(`m${made.length}`);
            made.push(one);
            return one;
          };
          const place = { memoryMib: 1024, queueTimeoutMs: 10_000 };
          const pool = new WarmPool<FakeMember>({
            make: start,
            turn: (signal, run) => queue.run({ ...place, tenant: 'pool', priority: 'low', signal }, run),
            offer: (one) => handover.offer(one),
            limits: { min: 2, max: 3 },
            clock,
            log: silentLog,
          });
          const served: FakeMember[] = [];
          const outcomes = requests.map(async ({ tenant, cancels, fails }) => {
            await scheduler.schedule(Promise.resolve(), 'a request');
            const aborter = new AbortController();
            if (cancels) {
              void scheduler.schedule(Promise.resolve(), 'a cancellation').then(() => aborter.abort());
            }
            const { signal } = aborter;
            const run = (both: AbortSignal) => start(both, fails);
            const got = pool.claim() ?? (await queue.run({ ...place, tenant, signal, handover }, run));
            served.push(got);
          });
          const passing = scheduler.schedule(Promise.resolve(), 'time').then(() => clock.advance(10_000));
          const closing = closesEarly
            ? scheduler.schedule(Promise.resolve(), 'the end').then(() => Promise.all([queue.close(), pool.close()]))
            : undefined;
          const settled = Promise.allSettled(outcomes);
          await scheduler.waitFor(Promise.all([settled, passing, closing]));
          const ending = Promise.all([queue.close(), pool.close()]);
          await scheduler.waitFor(ending);

          for (const outcome of await settled) {
            if (outcome.status === 'fulfilled') continue;
            const error: unknown = outcome.reason;
            const known = error instanceof BusyError || /canceled|shutting down|not started/.test(String(error));
            expect(known).toBe(true);
          }
          expect(new Set(served).size).toBe(served.length);
          for (const one of made) expect(one.discards).toBe(served.includes(one) ? 0 : 1);
          expect(queue.stats()).toEqual({ running: 0, waiting: 0, waitingLow: 0, reservedMib: 0 });
          expect(pool.stats()).toMatchObject({ ready: 0, starting: 0 });
          expect(handover.offer(new FakeMember('nobody waits'))).toBe(false);
        },
      ),
      { numRuns: 500 },
    );
  });
});
