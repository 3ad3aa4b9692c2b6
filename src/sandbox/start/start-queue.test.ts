import { getEventListeners } from 'node:events';
import { describe, expect, it } from 'vitest';
import { settle } from '../../../test/support/fake-members.ts';
import { FakeClock } from '../../base/clock.ts';
import { BusyError } from '../contract/errors.ts';
import { RESERVE_MIB } from '../memory/host-guard.ts';
import {
  Handover,
  MEMORY_POLL_MS,
  RETRY_MEMORY_MS_MIN,
  RETRY_MS_MAX,
  RETRY_MS_MIN,
  StartQueue,
  type StartQueueOptions,
  type StartRequest,
} from './start-queue.ts';

const TOTAL_MIB = 16_384;

function queueOf(options: Partial<StartQueueOptions> = {}) {
  const clock = new FakeClock();
  const host = { availableMib: TOTAL_MIB };
  const queue = new StartQueue({
    concurrency: 1,
    totalMib: TOTAL_MIB,
    availableMib: () => host.availableMib,
    clock,
    ...options,
  });
  const begun: string[] = [];
  const finish = new Map<string, PromiseWithResolvers<string>>();
  /** Requests a start; resolves to its outcome in one word, or the reason of its refusal. */
  const ask = (name: string, request: Partial<StartRequest<string>> = {}) => {
    const done = Promise.withResolvers<string>();
    finish.set(name, done);
    const defaults = { tenant: name.slice(0, 1), memoryMib: 512, queueTimeoutMs: 60_000 };
    const running = queue.run({ ...defaults, ...request }, () => {
      begun.push(name);
      return done.promise;
    });
    running.catch(() => undefined);
    return running;
  };
  const end = async (name: string): Promise<void> => {
    finish.get(name)?.resolve(name);
    await settle();
  };
  return { queue, clock, host, begun, ask, end, finish };
}

describe('StartQueue', () => {
  it('reserve: memory reserved for growth is not available to starts', async () => {
    const { queue, host, begun, ask } = queueOf();
    host.availableMib = 1024 + RESERVE_MIB;
    const release = queue.reserve(600);
    expect(() => queue.reserve(600)).toThrow(
      expect.objectContaining({ code: 'memory_unavailable', message: expect.stringContaining('424 MiB left') }),
    );
    void ask('a1');
    expect(begun).toEqual([]);
    release();
    release();
    expect(begun).toEqual(['a1']);
    expect(queue.stats().reservedMib).toBe(512);
  });

  it('run: at most `concurrency` at once; settles as the start does', async () => {
    const { queue, begun, ask, end, finish } = queueOf({ concurrency: 2 });
    const [one, two, three] = [ask('a1'), ask('a2'), ask('a3')];
    expect(begun).toEqual(['a1', 'a2']);
    expect(queue.stats()).toEqual({ running: 2, waiting: 1, waitingLow: 0, reservedMib: 1024 });
    finish.get('a2')?.reject(new Error('no disk'));
    await expect(two).rejects.toThrow('no disk');
    expect(begun).toEqual(['a1', 'a2', 'a3']);
    await end('a1');
    await end('a3');
    expect(await Promise.all([one, three])).toEqual(['a1', 'a3']);
    expect(queue.stats()).toEqual({ running: 0, waiting: 0, waitingLow: 0, reservedMib: 0 });
  });

  it('run: a start that throws synchronously releases its place', async () => {
    const { queue } = queueOf();
    const request = { tenant: 'a', memoryMib: 1, queueTimeoutMs: null };
    const thrown = queue.run(request, () => {
      throw new Error('at once');
    });
    await expect(thrown).rejects.toThrow('at once');
    expect(queue.stats().running).toBe(0);
  });

  it('run: first in, first out within a tenant, round-robin over tenants', async () => {
    const { begun, ask, end } = queueOf();
    for (const name of ['a1', 'a2', 'a3', 'a4', 'b1', 'b2', 'c1']) ask(name);
    for (let i = 0; i < 7; i++) await end(begun[i] ?? '');
    expect(begun).toEqual(['a1', 'a2', 'b1', 'c1', 'a3', 'b2', 'a4']);
  });

  it('run: low priority starts only if no normal request waits', async () => {
    const { begun, ask, end } = queueOf();
    ask('a1');
    ask('pool', { priority: 'low', queueTimeoutMs: null });
    ask('a2');
    await end('a1');
    expect(begun).toEqual(['a1', 'a2']);
    await end('a2');
    expect(begun).toEqual(['a1', 'a2', 'pool']);
  });

  it('run: refused at once when the queue is full; low priority does not fill it', async () => {
    const { ask } = queueOf({ waitingMax: 2 });
    ask('a1');
    ask('p1', { priority: 'low' });
    ask('p2', { priority: 'low' });
    ask('a2');
    ask('a3');
    await expect(ask('a4')).rejects.toMatchObject({ code: 'busy' });
    await expect(ask('p3', { priority: 'low' })).rejects.toBeInstanceOf(BusyError);
  });

  it('run: refused at the queue timeout, and the next moves up', async () => {
    const { clock, begun, ask, end } = queueOf();
    ask('a1');
    const late = ask('b1', { queueTimeoutMs: 1000 });
    ask('c1');
    clock.advance(999);
    await end('nothing');
    clock.advance(1);
    await expect(late).rejects.toMatchObject({ code: 'busy', message: 'not started within 1000 ms: 2 wait, 1 start' });
    await end('a1');
    expect(begun).toEqual(['a1', 'c1']);
  });

  it('run: the queue timeout does not affect a start under way', async () => {
    const { clock, ask, end } = queueOf();
    const running = ask('a1', { queueTimeoutMs: 1000 });
    clock.advance(5000);
    await end('a1');
    expect(await running).toBe('a1');
  });

  it('run: cancelled in the queue or before it; a start under way gets the signal', async () => {
    const { queue, begun, ask } = queueOf();
    ask('a1');
    const aborter = new AbortController();
    const left = ask('a2', { signal: aborter.signal });
    aborter.abort(new Error('the client left'));
    await expect(left).rejects.toMatchObject({ code: 'cancelled', cause: { message: 'the client left' } });
    await expect(ask('a3', { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'cancelled' });
    expect(queue.stats().waiting).toBe(0);
    expect(begun).toEqual(['a1']);

    const { queue: other } = queueOf();
    const { signal } = aborter;
    const request = { tenant: 'a', memoryMib: 1, queueTimeoutMs: null };
    await expect(other.run({ ...request, signal }, async () => 1)).rejects.toThrow();
    const second = new AbortController();
    const given = await other.run({ ...request, signal: second.signal }, async (got) => got);
    second.abort();
    expect(given.aborted).toBe(true);
  });

  it('run: removes its abort listener once a request has started or was refused', async () => {
    const { clock, ask, end } = queueOf();
    const { signal } = new AbortController();
    ask('a1', { signal });
    const late = ask('a2', { signal, queueTimeoutMs: 10 });
    expect(getEventListeners(signal, 'abort')).toHaveLength(1);
    clock.advance(10);
    await expect(late).rejects.toMatchObject({ code: 'busy' });
    expect(getEventListeners(signal, 'abort')).toHaveLength(0);
    await end('a1');
  });

  it('run: waits for memory beyond the host’s reserve and running starts', async () => {
    const { queue, clock, host, begun, ask, end } = queueOf({ concurrency: 4, reserveMib: 500 });
    host.availableMib = 1600;
    ask('a1', { memoryMib: 600 });
    ask('a2', { memoryMib: 600 });
    expect(begun).toEqual(['a1']);
    // The start has used 200 of its 600 MiB and is done.
    host.availableMib = 1400;
    await end('a1');
    expect(begun).toEqual(['a1', 'a2']);
    ask('a3', { memoryMib: 300 });
    ask('a4', { memoryMib: 301 });
    expect(begun).toEqual(['a1', 'a2', 'a3']);
    host.availableMib += 1000;
    clock.advance(MEMORY_POLL_MS);
    expect(begun).toEqual(['a1', 'a2', 'a3', 'a4']);
    for (const name of begun) await end(name);
    expect(queue.stats().reservedMib).toBe(0);
  });

  it('shared memory that the first start brings counts once for all until it is there', async () => {
    const { queue, host, begun, ask, end, finish } = queueOf({ concurrency: 3 });
    const missing = { template: 300, other: 300 };
    const need = (key: keyof typeof missing) => ({ key, missingMib: () => missing[key] });
    const clone = { tenant: 'a', memoryMib: 100, shared: need('template') };
    host.availableMib = RESERVE_MIB + 300 + 2 * 100;
    for (const name of ['first', 'second', 'third']) void ask(name, clone);
    // The first two bring one copy, whichever of them makes it; the third does not fit.
    expect(begun).toEqual(['first', 'second']);
    expect(queue.stats().reservedMib).toBe(500);
    expect(queue.roomMib).toBe(0);
    // The first fails before it has made the copy: the second still may.
    finish.get('first')?.reject(new Error('broken'));
    await settle();
    expect(begun).toEqual(['first', 'second', 'third']);
    // Half of the copy is there, so the available memory lacks that half.
    [missing.template, host.availableMib] = [150, host.availableMib - 150];
    expect(queue.roomMib).toBe(0);
    [missing.template, host.availableMib] = [0, host.availableMib - 150];
    for (const name of ['second', 'third']) await end(name);
    host.availableMib = RESERVE_MIB + 100;
    await expect(Promise.race([ask('fourth', clone), settle()])).resolves.toBeUndefined();
    expect(begun.at(-1)).toBe('fourth');
    await end('fourth');
    // Another template, or the same one after it was dropped: a new copy.
    missing.template = 300;
    const waiting = [ask('fifth', clone), ask('sixth', { ...clone, shared: need('other') })];
    expect(begun.at(-1)).toBe('fourth');
    host.availableMib = RESERVE_MIB + 800;
    const release = queue.reserve(1);
    release();
    expect(begun.slice(-2)).toEqual(['fifth', 'sixth']);
    expect(queue.stats().reservedMib).toBe(800);
    for (const name of ['fifth', 'sixth']) await end(name);
    await Promise.all(waiting);
    expect(queue.stats().reservedMib).toBe(0);
  });

  it('resumeWaitMs: the time that the next start, a resume, has waited for memory', () => {
    const { queue, clock, host, ask } = queueOf();
    host.availableMib = 100;
    void ask('a1', { queueTimeoutMs: 1000 });
    void ask('a2', { isResume: true });
    clock.advance(1000);
    expect(queue.resumeWaitMs).toBe(0);
    clock.advance(3000);
    expect(queue.resumeWaitMs).toBe(3000);
    host.availableMib = TOTAL_MIB;
    clock.advance(MEMORY_POLL_MS);
    expect(queue.resumeWaitMs).toBe(0);
    void ask('a3', { isResume: true });
    clock.advance(5000);
    expect(queue.resumeWaitMs).toBe(0);
  });

  it('refuseStarts: refuses waiting and new requests, and lets pool refills wait', async () => {
    const { queue, host, begun, ask } = queueOf();
    host.availableMib = 100;
    const refill = ask('p1', { priority: 'low', queueTimeoutMs: null });
    const waiting = ask('a1');
    queue.refuseStarts('100 MiB are available');
    const busy = { code: 'busy', retryAfterMs: RETRY_MEMORY_MS_MIN };
    await expect(waiting).rejects.toMatchObject(busy);
    await expect(ask('a2')).rejects.toThrow('memory of the host is short: 100 MiB are available');
    expect(queue.stats()).toMatchObject({ waiting: 0, waitingLow: 1 });
    host.availableMib = TOTAL_MIB;
    queue.refuseStarts(null);
    expect(begun).toEqual(['p1']);
    void refill;
  });

  it('holdStarts: nothing starts until it ends, however much memory is free', async () => {
    const { queue, clock, begun, ask } = queueOf();
    queue.holdStarts(true);
    void ask('a1');
    void ask('p1', { priority: 'low', queueTimeoutMs: null });
    clock.advance(10 * MEMORY_POLL_MS);
    expect(begun).toEqual([]);
    queue.holdStarts(false);
    expect(begun).toContain('a1');
  });

  it('run: a large request that waits for memory is not overtaken by small ones', async () => {
    const { clock, host, begun, ask, end } = queueOf({ concurrency: 4 });
    host.availableMib = 2000;
    ask('a1', { memoryMib: 4000, queueTimeoutMs: 10_000 });
    ask('b1', { memoryMib: 10 });
    clock.advance(5000);
    expect(begun).toEqual([]);
    host.availableMib = 5000;
    clock.advance(MEMORY_POLL_MS);
    expect(begun).toEqual(['a1', 'b1']);
    await end('a1');
  });

  it('run: when a large request gives up, those behind it start at once', async () => {
    const { clock, host, begun, ask } = queueOf({ concurrency: 4 });
    host.availableMib = 2000;
    const large = ask('a1', { memoryMib: 4000, queueTimeoutMs: 1000 });
    ask('b1', { memoryMib: 10 });
    clock.advance(1000);
    expect(begun).toEqual(['b1']);
    const error: unknown = await large.catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(BusyError);
    expect((error as BusyError).message).toContain('memory of the host is short');
    expect((error as BusyError).retryAfterMs).toBeGreaterThanOrEqual(RETRY_MEMORY_MS_MIN);
  });

  it.each([TOTAL_MIB, TOTAL_MIB - 511, Number.NaN, Number.POSITIVE_INFINITY])(
    'run: %d MiB, more than this host can ever provide, is refused at once',
    async (memoryMib) => {
      const { ask, queue } = queueOf();
      await expect(ask('a1', { memoryMib })).rejects.toMatchObject({ code: 'spec_invalid' });
      expect(queue.stats().waiting).toBe(0);
    },
  );

  it('BusyError: the retry delay follows the queue length and recent start times', async () => {
    const { clock, ask, end } = queueOf({ concurrency: 2, waitingMax: 8 });
    const retryAfter = async () => {
      const error: unknown = await ask('z').catch((reason: unknown) => reason);
      return (error as BusyError).retryAfterMs;
    };
    // Many starts of 4 s.
    for (let i = 0; i < 30; i++) {
      ask(`w${i}`);
      clock.advance(4000);
      await end(`w${i}`);
    }
    for (let i = 0; i < 10; i++) ask(`a${i}`, { queueTimeoutMs: null });
    expect(await retryAfter()).toBeCloseTo((4000 * 10) / 2, -2);
    // These take longer than the last ones did.
    clock.advance(10_000);
    expect(await retryAfter()).toBe((10_000 * 10) / 2);
    clock.advance(100_000);
    expect(await retryAfter()).toBe(RETRY_MS_MAX);
  });

  it('BusyError: the retry delay is never 0', async () => {
    const { ask, end } = queueOf({ waitingMax: 1 });
    for (let i = 0; i < 30; i++) {
      ask(`w${i}`);
      await end(`w${i}`);
    }
    ask('a1');
    ask('a2');
    const error: unknown = await ask('a3').catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: 'busy', retryAfterMs: RETRY_MS_MIN });
  });

  it('close: refuses waiting and new requests, and waits for starts under way', async () => {
    const { queue, clock, begun, ask, end } = queueOf();
    const running = ask('a1');
    const waiting = [ask('a2'), ask('b1'), ask('p1', { priority: 'low' })];
    let isClosed = false;
    const closing = queue.close().then(() => {
      isClosed = true;
    });
    for (const one of [...waiting, ask('a3')]) {
      await expect(one).rejects.toMatchObject({ code: 'cancelled' });
    }
    expect(queue.stats()).toMatchObject({ running: 1, waiting: 0, waitingLow: 0 });
    expect(isClosed).toBe(false);
    await end('a1');
    await closing;
    await queue.close();
    expect(await running).toBe('a1');
    clock.advance(100_000);
    expect(begun).toEqual(['a1']);
  });
});

describe('Handover', () => {
  it('offer: goes to the first waiting request, fair over tenants, never to a started one', async () => {
    const { queue, begun, ask, end } = queueOf();
    const handover = new Handover<string>();
    const asked = ['a1', 'a2', 'a3', 'b1'].map((name) => ask(name, { handover }));
    expect(begun).toEqual(['a1']);
    expect([handover.offer('x'), handover.offer('y')]).toEqual([true, true]);
    expect(await Promise.all([asked[1], asked[3]])).toEqual(['x', 'y']);
    expect(queue.stats()).toMatchObject({ running: 1, waiting: 1 });
    await end('a1');
    expect(begun).toEqual(['a1', 'a3']);
    expect(handover.offer('z')).toBe(false);
  });

  it('offer: a refused request no longer waits', async () => {
    const { clock, ask } = queueOf();
    const handover = new Handover<string>();
    ask('a1');
    const aborter = new AbortController();
    const refused = [ask('a2', { handover, signal: aborter.signal }), ask('a3', { handover, queueTimeoutMs: 10 })];
    aborter.abort();
    clock.advance(10);
    await Promise.allSettled(refused);
    expect(handover.offer('x')).toBe(false);
  });

  it('offer: a served request that waited for memory lets the next one start', async () => {
    const { host, begun, ask } = queueOf({ concurrency: 2 });
    const handover = new Handover<string>();
    host.availableMib = 1000;
    const large = ask('a1', { memoryMib: 2000, handover });
    ask('b1', { memoryMib: 100 });
    expect(begun).toEqual([]);
    handover.offer('x');
    expect(begun).toEqual(['b1']);
    expect(await large).toBe('x');
  });
});
