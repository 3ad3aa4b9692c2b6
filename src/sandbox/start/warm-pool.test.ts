import { describe, expect, it } from 'vitest';
import { FakeMaker, type FakeMember, settle } from '../../../test/support/fake-members.ts';
import { FakeClock } from '../../base/clock.ts';
import { type Log, silentLog } from '../../base/log.ts';
import { BusyError } from '../contract/errors.ts';
import { CALM_MS } from './pool-target.ts';
import { Handover, StartQueue } from './start-queue.ts';
import {
  BACKOFF_MS_MAX,
  BACKOFF_MS_MIN,
  CHECK_CONCURRENCY,
  CHECK_TIMEOUT_MS,
  REFILL_CONCURRENCY,
  TICK_MS,
  WarmPool,
  type WarmPoolOptions,
} from './warm-pool.ts';

function poolOf(min: number, max: number, options: Partial<WarmPoolOptions<FakeMember>> = {}) {
  const clock = new FakeClock();
  const maker = new FakeMaker();
  const logged: string[] = [];
  const log: Log = { ...silentLog, warn: (message) => logged.push(message), error: (message) => logged.push(message) };
  const pool = new WarmPool({ make: maker.make, limits: { min, max }, clock, log, ...options });
  const advance = async (ms: number): Promise<void> => {
    clock.advance(ms);
    await settle();
  };
  const fill = async (): Promise<void> => {
    await settle();
    while (maker.pending.length > 0) {
      maker.succeed();
      await settle();
    }
  };
  /** Lets time pass while all members stay healthy. */
  const passWell = async (ms: number): Promise<void> => {
    for (let left = ms; left > 0; left -= 1000) {
      await advance(1000);
      while (maker.members.some(({ asked }) => asked.length > 0)) {
        for (const member of maker.members) member.asked.pop()?.resolve();
        await settle();
      }
    }
  };
  return { pool, clock, maker, logged, advance, fill, passWell };
}

describe('WarmPool', () => {
  it('refill: fills up to the minimum, at most `refillConcurrency` at once', async () => {
    const { pool, maker, fill } = poolOf(3, 8);
    await settle();
    expect(maker.pending).toHaveLength(REFILL_CONCURRENCY);
    expect(pool.stats()).toMatchObject({ target: 3, ready: 0, starting: 2 });
    maker.succeed();
    await settle();
    expect(pool.stats()).toMatchObject({ ready: 1, starting: 2 });
    await fill();
    expect(pool.stats()).toMatchObject({ ready: 3, starting: 0 });
  });

  it('claim: takes the oldest at once, and the pool refills at once', async () => {
    const { pool, maker, fill } = poolOf(2, 2);
    await fill();
    expect(pool.claim()).toBe(maker.members[0]);
    await settle();
    expect(pool.stats()).toMatchObject({ hits: 1, misses: 0, ready: 1, starting: 1 });
    expect(pool.claim()).toBe(maker.members[1]);
    expect(pool.claim()).toBeUndefined();
    expect(pool.stats()).toMatchObject({ hits: 2, misses: 1, ready: 0 });
    expect(maker.members.map(({ discards }) => discards)).toEqual([0, 0]);
  });

  it('claim: members that fit no request any more end and are replaced', async () => {
    const { pool, maker, fill } = poolOf(2, 2);
    await fill();
    const before = [...maker.members];
    expect(pool.claim(() => false)).toBeUndefined();
    await fill();
    const after = maker.members.filter((member) => !before.includes(member));
    expect(pool.claim((member) => !before.includes(member))).toBe(after[0]);
  });

  it('claim: an empty pool with minimum 0 gets a member on demand, and drops it later', async () => {
    const { pool, maker, passWell, fill } = poolOf(0, 4);
    await settle();
    expect(maker.calls).toBe(0);
    expect(pool.claim()).toBeUndefined();
    await fill();
    expect(pool.stats()).toMatchObject({ target: 1, ready: 1 });
    await passWell(CALM_MS - TICK_MS);
    expect(pool.stats().ready).toBe(1);
    await passWell(TICK_MS);
    expect(pool.stats()).toMatchObject({ target: 0, ready: 0, discarded: 0 });
    expect(maker.members[0]?.discards).toBe(1);
  });

  it('claim: skips and discards members whose process is gone', async () => {
    const { pool, maker, fill } = poolOf(3, 3);
    await fill();
    maker.members[0]?.end('quietly');
    maker.members[1]?.end('quietly');
    expect(pool.claim()).toBe(maker.members[2]);
    expect(pool.stats()).toMatchObject({ hits: 1, discarded: 2, ready: 0 });
    expect(maker.members.map(({ discards }) => discards)).toEqual([1, 1, 0]);
  });

  it('claim: a member whose isAlive throws is not handed out', async () => {
    const { pool, maker, fill } = poolOf(1, 1);
    await fill();
    const [member] = maker.members;
    if (member !== undefined) {
      member.isAlive = () => {
        throw new Error('no such process');
      };
    }
    expect(pool.claim()).toBeUndefined();
    expect(member?.discards).toBe(1);
  });

  it('claim: a member with an open check is taken last', async () => {
    const { pool, maker, advance, fill } = poolOf(2, 2);
    await fill();
    await advance(TICK_MS);
    maker.members[1]?.asked.pop()?.resolve();
    await settle();
    expect(pool.claim()).toBe(maker.members[1]);
    expect(pool.claim()).toBe(maker.members[0]);
  });

  it('ended: an ended member is dropped; a proven one is replaced at once', async () => {
    const { pool, maker, logged, fill, passWell } = poolOf(2, 2);
    await fill();
    await passWell(TICK_MS);
    maker.members[0]?.end();
    await settle();
    expect(pool.stats()).toMatchObject({ ready: 1, starting: 1, discarded: 1 });
    expect(maker.members[0]?.discards).toBe(1);
    expect(logged).toEqual(['a pool member was lost']);
    await fill();
    expect(pool.stats().ready).toBe(2);
  });

  it('ended: members that die at once are replaced with backoff', async () => {
    const { pool, clock, maker, logged, advance } = poolOf(1, 1);
    const madeMs: number[] = [];
    await settle();
    while (clock.now() < 300_000) {
      if (maker.pending.length > 0) {
        madeMs.push(clock.now());
        maker.succeed().end();
        await settle();
      }
      await advance(1000);
    }
    // 1, 2, 4 … 60 s apart.
    expect(madeMs.slice(0, 5).map((ms) => ms / 1000)).toEqual([0, 1, 3, 7, 15]);
    expect(madeMs.length).toBeLessThan(12);
    expect(pool.stats()).toMatchObject({ ready: 0, discarded: madeMs.length });
    expect(logged).toEqual(['a new pool member was lost']);
  });

  it('check: a member whose check fails is discarded and never handed out', async () => {
    const { pool, maker, advance, fill } = poolOf(2, 2);
    await fill();
    await advance(TICK_MS);
    maker.members[0]?.asked.pop()?.reject(new Error('the agent is stuck'));
    await settle();
    expect(pool.stats()).toMatchObject({ ready: 1, discarded: 1 });
    expect(pool.claim()).toBe(maker.members[1]);
    expect(maker.members[0]?.discards).toBe(1);
  });

  it('check: a member whose check times out is discarded', async () => {
    const { pool, maker, advance, fill } = poolOf(1, 1);
    await fill();
    await advance(TICK_MS);
    await advance(CHECK_TIMEOUT_MS - 1);
    expect(pool.stats().discarded).toBe(0);
    await advance(1);
    expect(pool.stats()).toMatchObject({ ready: 0, discarded: 1 });
    expect(maker.members[0]?.discards).toBe(1);
  });

  it('check: at most `CHECK_CONCURRENCY` at once; each member is checked even if others hang', async () => {
    const { pool, maker, advance, fill } = poolOf(8, 8);
    await fill();
    const asked = () => maker.members.filter((member) => member.asked.length > 0).length;
    await advance(TICK_MS);
    expect(asked()).toBe(CHECK_CONCURRENCY);
    maker.members[0]?.asked.pop()?.resolve();
    await settle();
    expect(asked()).toBe(CHECK_CONCURRENCY);
    await advance(CHECK_TIMEOUT_MS);
    expect(pool.stats().discarded).toBe(CHECK_CONCURRENCY);
    await advance(CHECK_TIMEOUT_MS);
    expect(pool.stats().discarded).toBe(7);
    expect(maker.members[0]?.discards).toBe(0);
  });

  it('check: a failed check of a meanwhile claimed member has no effect', async () => {
    const { pool, maker, advance, fill } = poolOf(1, 1);
    await fill();
    await advance(TICK_MS);
    const claimed = pool.claim();
    claimed?.asked.pop()?.reject(new Error('busy with its owner'));
    await settle();
    expect(claimed).toBe(maker.members[0]);
    expect(claimed?.discards).toBe(0);
    expect(pool.stats().discarded).toBe(0);
  });

  it('claim: the end of a claimed member has no effect on the pool', async () => {
    const { pool, fill } = poolOf(1, 1);
    await fill();
    const claimed = pool.claim();
    claimed?.end();
    await settle();
    expect(claimed?.discards).toBe(0);
    expect(pool.stats().discarded).toBe(0);
  });

  it('make: failures back off from 1 s to 60 s and are logged once', async () => {
    const { pool, clock, maker, logged, advance } = poolOf(4, 4);
    const failedMs: number[] = [];
    await settle();
    while (clock.now() < 400_000) {
      if (maker.pending.length > 0) failedMs.push(clock.now());
      while (maker.pending.length > 0) maker.fail();
      await settle();
      pool.claim();
      await advance(500);
    }
    const pauses = failedMs.slice(1).map((ms, i) => ms - (failedMs[i] ?? 0));
    expect(pauses[0]).toBe(BACKOFF_MS_MIN);
    for (const [i, pause] of pauses.entries()) {
      expect(pause).toBe(Math.min(BACKOFF_MS_MIN * 2 ** i, BACKOFF_MS_MAX));
    }
    expect(pauses.at(-1)).toBe(BACKOFF_MS_MAX);
    expect(logged).toEqual(['a pool member could not be made']);
    // Two at once at first, one at a time while it fails.
    expect(maker.calls).toBe(failedMs.length + 1);
  });

  it('make: after a failure, members are made one at a time until one has proved good', async () => {
    const { pool, maker, logged, advance, fill } = poolOf(4, 4);
    await settle();
    maker.fail();
    maker.fail();
    await settle();
    await advance(BACKOFF_MS_MIN);
    expect(maker.pending).toHaveLength(1);
    maker.succeed();
    await settle();
    expect(maker.pending).toHaveLength(1);
    expect(pool.claim()).toBe(maker.members[0]);
    await settle();
    expect(maker.pending).toHaveLength(REFILL_CONCURRENCY);
    await advance(1);
    maker.fail();
    await settle();
    await advance(BACKOFF_MS_MIN);
    await fill();
    expect(pool.stats().ready).toBe(4);
    expect(logged).toHaveLength(2);
  });

  it('make: a claim of a member made before the failure does not reset the backoff', async () => {
    const { pool, maker, logged, advance, fill } = poolOf(2, 2);
    await fill();
    pool.claim();
    await advance(1);
    maker.fail();
    await settle();
    pool.claim();
    await advance(BACKOFF_MS_MIN);
    expect(maker.pending).toHaveLength(1);
    maker.fail();
    await settle();
    await advance(BACKOFF_MS_MIN);
    expect(maker.pending).toHaveLength(0);
    expect(logged).toHaveLength(1);
  });

  it('setLimits: limits of 0 cancel makes and discard ready members', async () => {
    const { pool, maker } = poolOf(3, 3);
    await settle();
    maker.succeed();
    await settle();
    pool.setLimits({ min: 0, max: 0 });
    expect(pool.stats()).toMatchObject({ min: 0, max: 0, target: 0, ready: 0, starting: 0 });
    expect(maker.pending.map(({ signal }) => signal.aborted)).toEqual([true, true]);
    // One obeys, the other is there already.
    maker.fail();
    const late = maker.succeed();
    await settle();
    expect([maker.members[0]?.discards, late.discards]).toEqual([1, 1]);
    expect(pool.claim()).toBeUndefined();
    await settle();
    expect(maker.pending).toHaveLength(0);
  });

  it('setLimits: refused limits change nothing', () => {
    const { pool } = poolOf(1, 2);
    expect(() => pool.setLimits({ min: 3, max: 2 })).toThrow(expect.objectContaining({ code: 'spec_invalid' }));
    expect(pool.stats()).toMatchObject({ min: 1, max: 2 });
  });

  it('offer: a new member goes to a waiting request, which then owns it', async () => {
    const taken: FakeMember[] = [];
    const offer = (member: FakeMember): boolean => taken.length < 1 && taken.push(member) > 0;
    const { pool, maker, fill } = poolOf(1, 1, { offer });
    await fill();
    expect(taken).toEqual([maker.members[0]]);
    expect(pool.stats()).toMatchObject({ handedOver: 1, hits: 0, ready: 1 });
    maker.members[0]?.end();
    await settle();
    expect(maker.members[0]?.discards).toBe(0);
    expect(pool.claim()).toBe(maker.members[1]);
  });

  it('offer: a member that ended while it was made is never offered', async () => {
    const offered: FakeMember[] = [];
    const { pool, maker } = poolOf(1, 1, { offer: (member) => offered.push(member) > 0 });
    await settle();
    maker.succeed().end('quietly');
    await settle();
    expect(offered).toEqual([]);
    expect(pool.stats()).toMatchObject({ ready: 0, discarded: 1 });
  });

  it('close: discards members, cancels makes, and waits until nothing is left', async () => {
    const { pool, clock, maker, logged } = poolOf(3, 3);
    await settle();
    const slow = maker.succeed();
    slow.discardsAtOnce = false;
    await settle();
    let isClosed = false;
    const closing = pool.close().then(() => {
      isClosed = true;
    });
    await settle();
    expect(maker.pending.map(({ signal }) => signal.aborted)).toEqual([true, true]);
    expect(pool.claim()).toBeUndefined();
    maker.fail();
    const late = maker.succeed();
    await settle();
    expect([slow.discards, late.discards]).toEqual([1, 1]);
    expect(isClosed).toBe(false);
    slow.release();
    await closing;
    await pool.close();
    clock.advance(600_000);
    await settle();
    expect(maker.calls).toBe(3);
    expect(logged).toEqual([]);
    expect(pool.stats()).toMatchObject({ ready: 0, starting: 0, hits: 0, misses: 0, discarded: 0 });
  });

  it('close: a claim during close gets no member', async () => {
    const { pool, maker, fill } = poolOf(2, 2);
    await fill();
    const claimed: unknown[] = [];
    for (const member of maker.members) {
      const discard = member.discard.bind(member);
      member.discard = () => {
        claimed.push(pool.claim());
        return discard();
      };
    }
    await pool.close();
    expect(claimed).toEqual([undefined, undefined]);
  });

  it('close: a member that fails to discard is logged and does not delay close', async () => {
    const { pool, maker, logged, fill } = poolOf(2, 2);
    await fill();
    const [member] = maker.members;
    if (member !== undefined) {
      member.discard = () => {
        throw new Error('the disk is gone');
      };
    }
    await pool.close();
    expect(logged).toEqual(['a pool member could not be discarded']);
    expect(maker.members[1]?.discards).toBe(1);
  });
});

describe('WarmPool: endMember', () => {
  it('ends a ready member and replaces it; it does not count as unhealthy', async () => {
    const { pool, maker, fill } = poolOf(2, 2);
    await fill();
    await pool.endMember();
    expect(maker.members.map(({ discards }) => discards)).toEqual([1, 0]);
    expect(pool.stats()).toMatchObject({ ready: 1, starting: 1, discarded: 0 });
    await fill();
    expect(pool.stats()).toMatchObject({ ready: 2, starting: 0 });
    await pool.close();
    await pool.endMember();
  });
});

describe('WarmPool with StartQueue', () => {
  it('200 requests at once, a pool of 4, slow starts: each is served or refused with a reason', async () => {
    const SLOW_MS = 900;
    const clock = new FakeClock();
    const queue = new StartQueue({ concurrency: 2, totalMib: 8192, availableMib: () => 8192, waitingMax: 128, clock });
    const handover = new Handover<FakeMember>();
    const maker = new FakeMaker();
    /** A clone for any request. */
    const start = (signal: AbortSignal): Promise<FakeMember> => {
      const made = maker.make(signal);
      const { done } = maker.pending.at(-1) ?? {};
      clock.after(SLOW_MS, () => maker.succeed(maker.pending.findIndex((one) => one.done === done)));
      return made;
    };
    const base = { memoryMib: 512 };
    const pool = new WarmPool<FakeMember>({
      make: start,
      turn: (signal, run) => queue.run({ ...base, tenant: 'pool', queueTimeoutMs: null, priority: 'low', signal }, run),
      offer: (member) => handover.offer(member),
      limits: { min: 4, max: 4 },
      clock,
      log: silentLog,
    });
    const pass = async (ms: number): Promise<void> => {
      for (let left = ms; left > 0; left -= 100) {
        clock.advance(100);
        await settle();
      }
    };
    await pass(4000);
    expect(pool.stats().ready).toBe(4);
    const outcomes = Array.from({ length: 200 }, async (_, i) => {
      const request = { ...base, tenant: `t${i % 7}`, queueTimeoutMs: 30_000, handover };
      return pool.claim() ?? (await queue.run(request, start));
    });
    const settled = Promise.allSettled(outcomes);
    await pass(40_000);
    const results = await settled;
    const served = results.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
    const refused = results.flatMap((one) => (one.status === 'rejected' ? [one.reason] : []));
    expect(new Set(served).size).toBe(served.length);
    // 4 were ready, and two at a time were made for 30 s.
    expect(served.length).toBeGreaterThanOrEqual(4 + 2 * Math.floor(30_000 / SLOW_MS));
    expect(refused.length).toBe(200 - served.length);
    for (const error of refused) {
      expect(error).toBeInstanceOf(BusyError);
      expect((error as BusyError).message).toMatch(/the queue is full|not started within 30000 ms/);
      expect((error as BusyError).retryAfterMs).toBeGreaterThanOrEqual(250);
    }
    // The retry delay is the time of the 130 requests ahead, two at a time.
    const atOnce = (refused as BusyError[]).find((one) => one.message.includes('full'));
    expect(atOnce?.retryAfterMs).toBeCloseTo((130 / 2) * SLOW_MS, -4);
    expect(pool.stats()).toMatchObject({ hits: 4, misses: 196, ready: 4, starting: 0 });
    expect(queue.stats()).toEqual({ running: 0, waiting: 0, waitingLow: 0, reservedMib: 0 });
    await Promise.all([pool.close(), queue.close()]);
    expect(maker.members.filter(({ discards }) => discards > 0)).toHaveLength(maker.members.length - served.length);
  });

  it('a refill under way goes to the first waiting request', async () => {
    const clock = new FakeClock();
    const maker = new FakeMaker();
    const queue = new StartQueue({ concurrency: 1, totalMib: 8192, availableMib: () => 8192, clock });
    const handover = new Handover<FakeMember>();
    const request = { memoryMib: 512, queueTimeoutMs: null };
    const pool = new WarmPool<FakeMember>({
      make: maker.make,
      turn: (signal, run) => queue.run({ ...request, tenant: 'pool', priority: 'low', signal }, run),
      offer: (member) => handover.offer(member),
      limits: { min: 1, max: 1 },
      clock,
      log: silentLog,
    });
    await settle();
    expect(pool.claim()).toBeUndefined();
    const other = queue.run({ ...request, tenant: 'a' }, async () => 'of another template');
    const waiting = queue.run({ ...request, tenant: 'a', handover }, maker.make);
    const refill = maker.succeed();
    expect(await waiting).toBe(refill);
    expect(await other).toBe('of another template');
    expect(pool.stats()).toMatchObject({ misses: 1, handedOver: 1 });
  });
});
