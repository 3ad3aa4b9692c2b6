/** The stop of a daemon and the start of the next one over the same store. No VMs. */
import { describe, expect, it } from 'vitest';
import type { TimedEvent } from '../../src/sandbox/contract/events.ts';
import { SESSION_ANNOTATION } from '../../src/sandbox/contract/request.ts';
import type { StopProgress } from '../../src/sandbox/plane/daemon-stop.ts';
import { PAUSE_GRACE_MS } from '../../src/sandbox/plane/lifetime.ts';
import { FakeHost, type FakeHostOptions } from '../support/fake-host.ts';
import { NOTHING, requireNothing } from '../support/fake-leftovers.ts';
import { settle } from '../support/fake-members.ts';
import { temporaryDir } from '../support/store.ts';

interface Stopped {
  readonly progress: readonly StopProgress[];
}

/** Stops a host as `serve` does. */
async function stop(host: FakeHost, { atOnce }: { readonly atOnce?: AbortSignal } = {}): Promise<Stopped> {
  const progress: StopProgress[] = [];
  await host.control.pauseAll({
    atOnce: atOnce ?? new AbortController().signal,
    onProgress: (one) => void progress.push(one),
  });
  await host.control.close();
  expect(await host.holdings()).toEqual(NOTHING);
  await host[Symbol.asyncDispose]();
  return { progress };
}

async function openPair(options: FakeHostOptions = {}) {
  const dataDir = await temporaryDir();
  const open = async (more: FakeHostOptions = {}): Promise<FakeHost> =>
    await FakeHost.open({ ...options, ...more, dataDir });
  return { first: await open(), open };
}

async function eventsOf(host: FakeHost, id: string): Promise<TimedEvent[]> {
  const seen: TimedEvent[] = [];
  for await (const event of host.control.events(id, { follow: false })) seen.push(event);
  return seen;
}

describe('LocalControlPlane: pauseAll, resumeStopped', () => {
  it.each([0, 1, 20])('%i sandboxes that ran go on in the next daemon; it resumes the oldest first', async (count) => {
    const { first, open } = await openPair({ concurrency: 1 });
    const ids: string[] = [];
    for (let n = 0; n < count; n += 1) {
      first.clock.advance(1);
      const { id } = await first.control.create({ boot: true, name: `no-${n}`, metadata: { no: `${n}` } });
      await (await first.guest(id)).remember(`thing ${n}`);
      ids.push(id);
    }
    const { progress } = await stop(first);
    expect(progress.map(({ done, total, failure }) => [done, total, failure])).toEqual(
      ids.map((_, n) => [n + 1, count, null]),
    );
    const next = await open();
    for (const id of ids) {
      expect(await next.control.get(id)).toMatchObject({ pausedTo: 'disk', pauseReason: 'daemon-stopped' });
    }
    const resumed: string[] = [];
    next.control.onChange(({ id, status }) => void (status === 'running' && resumed.push(id)));
    await next.control.resumeStopped();
    expect([...new Set(resumed)]).toEqual(ids);
    for (const [n, id] of ids.entries()) {
      const info = { status: 'running', pauseReason: null, name: `no-${n}`, metadata: { no: `${n}` } };
      expect(await next.control.get(id)).toMatchObject(info);
      expect(await (await next.guest(id)).recall()).toBe(`thing ${n}`);
      expect(await eventsOf(next, id)).toMatchObject([{ type: 'action', action: 'resume', ok: true }]);
    }
    await requireNothing(next);
    await next[Symbol.asyncDispose]();
  });

  it('pauses the longest idle sandbox first, at most `concurrency` at once', async () => {
    const { first } = await openPair({ concurrency: 2 });
    const ids: string[] = [];
    for (let n = 0; n < 4; n += 1) {
      ids.push((await first.control.create({ boot: true })).id);
      first.clock.advance(1000);
    }
    const [a = '', b = '', c = '', d = ''] = ids;
    await first.guest(a);
    const saves: (string | undefined)[] = [];
    const held = [first.script.hold('save-state'), first.script.hold('save-state')];
    for (const one of held) void one.reached.then((vm) => void saves.push(vm?.id));
    const stopping = stop(first);
    await Promise.all(held.map(({ reached }) => reached));
    for (let turn = 0; turn < 20; turn += 1) await settle();
    expect(saves.toSorted()).toEqual([b, c].toSorted());
    for (const id of [a, d]) expect(await first.control.get(id)).toMatchObject({ status: 'running' });
    for (const one of held) one.release();
    const { progress } = await stopping;
    // The two at once may end in any order.
    expect(progress.map(({ id }) => id).toSorted()).toEqual(ids.toSorted());
    expect(progress.map(({ done }) => done)).toEqual([1, 2, 3, 4]);
  });

  it('timeouts stand still: the rest of one counts from the resume, unless its owner gives another', async () => {
    const { first, open } = await openPair();
    const { id } = await first.control.create({ boot: true, timeoutMs: 60_000 });
    const other = await first.control.create({ boot: true, timeoutMs: 60_000 });
    const endless = await first.control.create({ boot: true });
    first.clock.advance(45_000);
    await stop(first);
    const next = await open();
    expect(await next.control.get(id)).toMatchObject({ endsAtMs: null });
    await next.control.update(other.id, { timeoutMs: 50_000 });
    // A change of the row keeps the rest.
    await next.control.update(id, { metadata: { of: 'a user' } });
    next.clock.advance(3_600_000);
    await next.control.resumeStopped();
    expect(await next.control.get(id)).toMatchObject({ endsAtMs: next.clock.wall() + 15_000 });
    expect(await next.control.get(other.id)).toMatchObject({ endsAtMs: next.clock.wall() + 50_000 });
    expect(await next.control.get(endless.id)).toMatchObject({ endsAtMs: null });
    const ended = next.became(id, 'ended');
    next.clock.advance(15_000);
    await ended;
    expect(await next.control.get(id)).toMatchObject({ end: { cause: 'timeout' } });
    // After an ordinary pause it counts anew.
    await next.control.pause(other.id, 'disk');
    await next.control.resume(other.id);
    expect(await next.control.get(other.id)).toMatchObject({ endsAtMs: next.clock.wall() + 50_000 });
    await requireNothing(next);
    await next[Symbol.asyncDispose]();
  });

  it('what was paused stays paused, also from memory; a sandbox of a session ends', async () => {
    const { first, open } = await openPair();
    const [disk, memory, session] = [
      await first.control.create({ boot: true }),
      await first.control.create({ boot: true }),
      await first.control.create({ boot: true, annotations: { [SESSION_ANNOTATION]: 'yes' } }),
    ];
    await (await first.guest(memory.id)).remember('a thing');
    await first.control.pause(disk.id, 'disk');
    await first.control.pause(memory.id, 'memory');
    const { progress } = await stop(first);
    expect(progress).toMatchObject([{ id: memory.id, total: 1, failure: null }]);
    const next = await open();
    await next.control.resumeStopped();
    for (const { id } of [disk, memory]) {
      expect(await next.control.get(id)).toMatchObject({ status: 'paused', pausedTo: 'disk', pauseReason: null });
    }
    expect(await next.control.get(session.id)).toMatchObject({ end: { cause: 'daemon-stopped' } });
    expect(await (await next.guest(memory.id)).recall()).toBe('a thing');
    await requireNothing(next);
    await next[Symbol.asyncDispose]();
  });

  it.each([
    ['a full disk', 'keep-disk', Object.assign(new Error('no space'), { code: 'ENOSPC' }), 'no space'],
    ['a guest that does not settle', 'settle', new Error('no answer'), 'no answer'],
  ] as const)('%s: that sandbox ends and its reason is shown; the others are paused', async (_, phase, error, text) => {
    const { first, open } = await openPair({ concurrency: 1 });
    const bad = await first.control.create({ boot: true });
    first.clock.advance(1000);
    const good = await first.control.create({ boot: true });
    first.script.fail(phase, error);
    const { progress } = await stop(first);
    expect(progress).toMatchObject([
      { id: bad.id, done: 1, failure: expect.stringContaining(text) },
      { id: good.id, done: 2, failure: null },
    ]);
    const next = await open();
    expect(await next.control.get(bad.id)).toMatchObject({
      status: 'ended',
      end: { cause: 'daemon-stopped', detail: expect.stringContaining(text) },
    });
    await next.control.resumeStopped();
    expect(await next.control.get(good.id)).toMatchObject({ status: 'running' });
    await requireNothing(next);
    await next[Symbol.asyncDispose]();
  });

  it('a pause that hangs ends that sandbox in time', async () => {
    const { first, open } = await openPair();
    const { id } = await first.control.create({ boot: true });
    const held = first.script.hold('save-state');
    const stopping = stop(first);
    await held.reached;
    first.clock.advance(PAUSE_GRACE_MS);
    await settle();
    held.release(new Error('killed'));
    const { progress } = await stopping;
    expect(progress).toMatchObject([{ id, failure: expect.stringContaining(`longer than ${PAUSE_GRACE_MS} ms`) }]);
    const next = await open();
    expect(await next.control.get(id)).toMatchObject({ end: { cause: 'daemon-stopped' } });
    await next[Symbol.asyncDispose]();
  });

  it('a second signal ends at once what is not paused yet, and keeps what is', async () => {
    const { first, open } = await openPair({ concurrency: 1 });
    const ids: string[] = [];
    for (let n = 0; n < 3; n += 1) {
      ids.push((await first.control.create({ boot: true })).id);
      first.clock.advance(1000);
    }
    const [a = '', b = '', c = ''] = ids;
    const again = new AbortController();
    const paused = first.became(a, 'paused');
    const held = first.script.hold('save-state');
    held.release();
    const second = first.script.hold('save-state');
    const stopping = stop(first, { atOnce: again.signal });
    await paused;
    await second.reached;
    again.abort();
    second.release(new Error('killed'));
    const { progress } = await stopping;
    expect(progress).toMatchObject([
      { id: a, failure: null },
      { id: b, failure: expect.stringContaining('second signal') },
      { id: c, failure: expect.stringContaining('second signal') },
    ]);
    const next = await open();
    expect((await next.control.list()).map(({ id }) => id)).toEqual([a]);
    expect(await next.control.get(c)).toMatchObject({ end: { cause: 'daemon-stopped' } });
    await next.control.resumeStopped();
    expect(await next.control.get(a)).toMatchObject({ status: 'running' });
    await requireNothing(next);
    await next[Symbol.asyncDispose]();
  });

  it('waits for starts under way; new requests are refused and may be retried', async () => {
    const { first, open } = await openPair();
    const paused = await first.control.create({ boot: true });
    await first.control.pause(paused.id, 'disk');
    const held = first.script.hold('hello');
    const creating = first.control.create({ boot: true });
    await held.reached;
    const stopping = stop(first);
    await settle();
    for (const ask of [
      () => first.control.create({}),
      () => first.control.setPool({ min: 1, max: 1 }),
      () => first.control.guest(paused.id),
    ]) {
      await expect(ask()).rejects.toMatchObject({ code: 'busy', retryAfterMs: expect.any(Number) });
    }
    held.release();
    const { id } = await creating;
    expect((await stopping).progress).toMatchObject([{ id, failure: null }]);
    const next = await open();
    await next.control.resumeStopped();
    expect(await next.control.get(id)).toMatchObject({ status: 'running' });
    expect(await next.control.get(paused.id)).toMatchObject({ status: 'paused' });
    await requireNothing(next);
    await next[Symbol.asyncDispose]();
  });

  it('a pause of another image stays paused and says so', async () => {
    const warned: string[] = [];
    const { first, open } = await openPair();
    const { id } = await first.control.create({ boot: true });
    await stop(first);
    const next = await open({
      rootImageDigest: 'another',
      warn: (text, fields) => void warned.push(`${text} ${fields?.['sandbox']}`),
    });
    await next.control.resumeStopped();
    expect(await next.control.get(id)).toMatchObject({ status: 'paused', pausedTo: 'disk' });
    expect(await eventsOf(next, id)).toMatchObject([{ action: 'resume', ok: false }]);
    expect(warned).toEqual([`a sandbox that ran when the daemon was stopped stays paused ${id}`]);
    await next[Symbol.asyncDispose]();
    // A daemon that fits resumes it.
    const fitting = await open();
    await fitting.control.resumeStopped();
    expect(await fitting.control.get(id)).toMatchObject({ status: 'running' });
    await requireNothing(fitting);
    await fitting[Symbol.asyncDispose]();
  });

  it('a failed resume leaves the sandbox paused; the next use resumes it', async () => {
    const { first, open } = await openPair();
    const { id } = await first.control.create({ boot: true, timeoutMs: 60_000 });
    first.clock.advance(20_000);
    await stop(first);
    const next = await open();
    next.script.fail('hello');
    await next.control.resumeStopped();
    expect(await next.control.get(id)).toMatchObject({ status: 'paused', pauseReason: 'daemon-stopped' });
    expect(await eventsOf(next, id)).toMatchObject([{ action: 'resume', ok: false }]);
    await next.guest(id);
    expect(await next.control.get(id)).toMatchObject({ status: 'running', endsAtMs: next.clock.wall() + 40_000 });
    await requireNothing(next);
    await next[Symbol.asyncDispose]();
  });

  it('stopped while it resumes: nothing is lost', async () => {
    const { first, open } = await openPair({ concurrency: 1 });
    const ids: string[] = [];
    for (let n = 0; n < 3; n += 1) ids.push((await first.control.create({ boot: true })).id);
    await stop(first);
    const next = await open();
    const held = next.script.hold('hello');
    const resuming = next.control.resumeStopped();
    await held.reached;
    const stopping = stop(next);
    await settle();
    held.release();
    await Promise.all([resuming, stopping]);
    const last = await open();
    await last.control.resumeStopped();
    for (const id of ids) expect(await last.control.get(id)).toMatchObject({ status: 'running' });
    await requireNothing(last);
    await last[Symbol.asyncDispose]();
  });
});
