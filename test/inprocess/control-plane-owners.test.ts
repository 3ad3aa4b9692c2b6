/** Several control planes over one store, concurrently and after one was killed. No VMs. */
import { describe, expect, it } from 'vitest';
import { productName } from '../../src/base/package-dir.ts';
import { FakeHost, type FakeHostOptions } from '../support/fake-host.ts';
import { NOTHING, NOTHING_STORED, requireNothing } from '../support/fake-leftovers.ts';
import { settle } from '../support/fake-members.ts';
import { temporaryDir } from '../support/store.ts';

/** Hosts over one store, with a shared record of live ones. */
class Neighbours implements AsyncDisposable {
  readonly #dataDir: string;
  readonly #alive = new Map<string, FakeHost>();

  private constructor(dataDir: string) {
    this.#dataDir = dataDir;
  }

  static async make(): Promise<Neighbours> {
    return new Neighbours(await temporaryDir());
  }

  async open(owner: string, options: FakeHostOptions = {}): Promise<FakeHost> {
    const host = await FakeHost.open({
      ...options,
      owner,
      dataDir: this.#dataDir,
      isOwnerAlive: async (other) => this.#alive.has(other),
    });
    this.#alive.set(owner, host);
    return host;
  }

  async kill(owner: string): Promise<void> {
    const host = this.#alive.get(owner);
    this.#alive.delete(owner);
    await host?.kill();
  }

  async close(owner: string): Promise<void> {
    await this.#alive.get(owner)?.[Symbol.asyncDispose]();
    this.#alive.delete(owner);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const owner of [...this.#alive.keys()]) await this.close(owner);
  }
}

/** A sandbox that is paused to disk and whose guest remembers something. */
async function pausedOne(host: FakeHost): Promise<string> {
  const { id } = await host.control.create({ boot: true, metadata: { of: 'a user' } });
  await (await host.guest(id)).remember('a thing');
  await host.control.pause(id, 'disk');
  return id;
}

/** Maximum of ended sandboxes in one list. */
const ENDED_LISTED = 256;

describe('LocalControlPlane: two over one store', () => {
  it('a pause for another image is marked with its maker, and stays as it is', async () => {
    await using both = await Neighbours.make();
    const one = await both.open('one');
    const id = await pausedOne(one);
    expect(await one.control.get(id)).toMatchObject({ foreignPause: null });
    await both.close('one');
    const newer = await both.open('two', { rootImageDigest: 'newer' });
    expect(await newer.control.list()).toMatchObject([{ id, status: 'paused', foreignPause: productName() }]);
    expect(await newer.control.get(id)).toMatchObject({ foreignPause: productName() });
    await expect(newer.control.guest(id)).rejects.toMatchObject({
      code: 'snapshot_foreign',
      message: `the pause of sandbox ${id} was made with another kernel, image, VMM or processor`,
      cause: expect.stringContaining(productName()),
    });
    await both.close('two');
    const again = await both.open('three');
    expect(await again.control.get(id)).toMatchObject({ foreignPause: null });
    expect(await (await again.guest(id)).recall()).toBe('a thing');
  });

  it('a pause for the image of the version before goes on with it, as long as the home has it', async () => {
    await using both = await Neighbours.make();
    const one = await both.open('one');
    const id = await pausedOne(one);
    await both.close('one');
    const newer = await both.open('two', { rootImageDigest: 'newer', olderImages: ['image'] });
    expect(await newer.control.get(id)).toMatchObject({ foreignPause: null });
    expect(await (await newer.guest(id)).recall()).toBe('a thing');
    const { id: saved } = await newer.control.snapshot(id);
    const [copy] = await newer.control.fork(id, { count: 1 });
    const forked = copy?.ok === true ? copy.sandbox.id : '';
    expect(await (await newer.guest(forked)).recall()).toBe('a thing');
    await newer.control.pause(forked, 'disk');
    const rows = await newer.store.snapshots.list();
    expect(rows.map(({ rootImageDigest }) => rootImageDigest)).toEqual(['image', 'image']);
    expect(await newer.control.snapshots()).toMatchObject([{ id: saved, current: true }]);
    const { id: made } = await newer.control.create({ boot: true });
    await newer.control.pause(made, 'disk');
    expect((await newer.store.snapshots.list()).map((row) => row.rootImageDigest)).toContain('newer');
  });

  it('a sandbox paused to disk by one is seen, resumed and paused by the other', async () => {
    await using both = await Neighbours.make();
    const [a, b] = [await both.open('a'), await both.open('b')];
    const id = await pausedOne(a);
    for (const host of [b, a, b]) {
      expect(await host.control.list()).toMatchObject([
        { id, status: 'paused', pausedTo: 'disk', metadata: { of: 'a user' } },
      ]);
      await host.control.resume(id);
      expect(await (await host.guest(id)).recall()).toBe('a thing');
      await host.control.pause(id, 'disk');
    }
    await requireNothing(a);
    expect(await b.control.list()).toEqual([]);
    expect(await b.control.get(id)).toMatchObject({ status: 'ended', end: { cause: 'stopped' } });
    await expect(b.control.resume(id)).rejects.toMatchObject({ code: 'gone' });
  });

  it('a resume by both at once: one succeeds, the other is refused', async () => {
    await using both = await Neighbours.make();
    const [a, b] = [await both.open('a'), await both.open('b')];
    for (let turn = 0; turn < 10; turn++) {
      const id = await pausedOne(a);
      const outcomes = await Promise.allSettled([a.control.resume(id), b.control.resume(id)]);
      const [won, lost] = outcomes[0].status === 'fulfilled' ? [a, b] : [b, a];
      expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
      expect(outcomes.find(({ status }) => status === 'rejected')).toMatchObject({
        reason: { code: 'not_ready', remedy: expect.any(String) },
      });
      expect(await (await won.guest(id)).recall()).toBe('a thing');
      expect(await lost.holdings()).toEqual(NOTHING);
      await won.control.remove(id);
    }
    await requireNothing(a);
  });

  it('during a resume by one, the other can copy the sandbox, but not change it', async () => {
    await using both = await Neighbours.make();
    const [a, b] = [await both.open('a'), await both.open('b')];
    const id = await pausedOne(a);
    const held = a.script.hold('hello');
    const resuming = a.control.resume(id);
    await held.reached;
    for (const ask of [
      () => b.control.resume(id),
      () => b.control.remove(id),
      () => b.control.update(id, { metadata: {} }),
      () => b.control.pause(id, 'memory'),
      () => b.control.guest(id),
    ]) {
      await expect(ask()).rejects.toMatchObject({ code: 'not_ready' });
      expect(await b.control.get(id)).toMatchObject({ status: 'paused', pausedTo: 'disk' });
    }
    const { id: snapshot } = await b.control.snapshot(id);
    const copy = await b.control.create({ snapshot });
    expect(await (await b.guest(copy.id)).recall()).toBe('a thing');
    held.release();
    expect(await resuming).toMatchObject({ status: 'running' });
    expect((await b.control.list()).map((one) => one.id)).toEqual([copy.id]);
    await requireNothing(b);
    await requireNothing(a);
  });

  it('a resume and a removal at once: one of them succeeds', async () => {
    await using both = await Neighbours.make();
    const [a, b] = [await both.open('a'), await both.open('b')];
    for (let turn = 0; turn < 10; turn++) {
      const id = await pausedOne(a);
      const [resumed, removed] = await Promise.allSettled([a.control.resume(id), b.control.remove(id)]);
      expect([resumed.status, removed.status].sort()).toEqual(['fulfilled', 'rejected']);
      const refused = resumed.status === 'rejected' ? resumed : removed;
      expect(['not_ready', 'gone']).toContain(((refused as PromiseRejectedResult).reason as { code: string }).code);
      if (resumed.status === 'fulfilled') await a.control.remove(id);
      expect(await b.control.get(id)).toMatchObject({ status: 'ended' });
    }
    await requireNothing(a);
  });

  it('a change by one applies to a resume by the other', async () => {
    await using both = await Neighbours.make();
    const [a, b] = [await both.open('a'), await both.open('b')];
    const id = await pausedOne(a);
    await b.control.list();
    const change = { timeoutMs: 5000, metadata: { of: 'another' }, onTimeout: 'pause' as const };
    await a.control.update(id, change);
    expect(await b.control.resume(id)).toMatchObject({
      metadata: { of: 'another' },
      onTimeout: 'pause',
      endsAtMs: b.clock.wall() + 5000,
    });
    await b.control.remove(id);
    await requireNothing(a);
  });

  it('close: succeeds although a removal was refused', async () => {
    await using both = await Neighbours.make();
    const [a, b] = [await both.open('a'), await both.open('b')];
    const id = await pausedOne(a);
    const other = await b.control.create({ boot: true });
    const held = a.script.hold('hello');
    const resuming = a.control.resume(id);
    await held.reached;
    const refused = expect(b.control.remove(id)).rejects.toMatchObject({ code: 'not_ready' });
    await b.became(id, 'ending');
    await b.control.close();
    await refused;
    expect(await b.holdings()).toEqual(NOTHING);
    expect(await b.control.get(other.id)).toMatchObject({ status: 'ended' });
    held.release();
    await resuming;
  });
});

describe('LocalControlPlane: after another one', () => {
  it('was closed: suspended sandboxes can be resumed, the others have ended', async () => {
    await using both = await Neighbours.make();
    const a = await both.open('a');
    const paused = await pausedOne(a);
    const running = await a.control.create({ boot: true });
    const resumed = await pausedOne(a);
    await a.guest(resumed);
    const removed = await a.control.create({ boot: true });
    await a.control.remove(removed.id);
    await both.close('a');
    const b = await both.open('b');
    expect((await b.control.list()).map(({ id }) => id)).toEqual([paused]);
    const detail = 'the process that held it was stopped';
    expect(await b.control.get(running.id)).toMatchObject({ end: { cause: 'daemon-stopped', detail } });
    expect(await b.control.get(resumed)).toMatchObject({
      end: { cause: 'daemon-stopped', detail: `${detail}; it had been resumed, which used its pause up` },
    });
    await expect(b.control.guest(resumed)).rejects.toMatchObject({
      code: 'gone',
      message: expect.stringContaining('daemon-stopped'),
      cause: expect.stringContaining('used its pause up'),
    });
    expect(await b.control.get(removed.id)).toMatchObject({ end: { cause: 'stopped' } });
    expect(await (await b.guest(paused)).recall()).toBe('a thing');
    await requireNothing(b);
  });

  it('was killed or closed: the list has the ended sandboxes of both, newest first', async () => {
    await using both = await Neighbours.make();
    const a = await both.open('a');
    const metadata = { of: 'a user' };
    const first = await a.control.create({ boot: true, metadata });
    a.clock.advance(1000);
    const second = await a.control.create({ boot: true });
    await both.kill('a');
    const b = await both.open('b');
    b.clock.advance(2000);
    const own = await b.control.create({ boot: true, metadata });
    expect((await b.control.list()).map(({ id }) => id)).toEqual([own.id]);
    const over = { status: ['ended'] } as const;
    expect(await b.control.list(over)).toMatchObject([
      { id: second.id, status: 'ended', end: { cause: 'host-lost' } },
      { id: first.id, status: 'ended', end: { cause: 'host-lost' } },
    ]);
    await b.control.remove(own.id);
    const ids = async (host: FakeHost) => (await host.control.list({ ...over, metadata })).map(({ id }) => id);
    expect(await ids(b)).toEqual([own.id, first.id]);
    await both.close('b');
    expect(await ids(await both.open('c'))).toEqual([own.id, first.id]);
  });

  it('the list has only the newest ended sandboxes', async () => {
    await using both = await Neighbours.make();
    const a = await both.open('a');
    const made: string[] = [];
    for (let at = 0; at < ENDED_LISTED + 2; at++) {
      const { id } = await a.control.create({ boot: true });
      await a.control.remove(id);
      a.clock.advance(10);
      made.unshift(id);
    }
    await both.close('a');
    const listed = await (await both.open('b')).control.list({ status: ['ended'] });
    expect(listed.map(({ id }) => id)).toEqual(made.slice(0, ENDED_LISTED));
  });

  it('was killed: its sandboxes have ended, suspended ones can be resumed', async () => {
    await using both = await Neighbours.make();
    const a = await both.open('a');
    const paused = await pausedOne(a);
    const running = await a.control.create({ boot: true, timeoutMs: 5000 });
    const inMemory = await a.control.create({ boot: true });
    await a.control.pause(inMemory.id, 'memory');
    await both.kill('a');
    const b = await both.open('b');
    for (const { id } of [running, inMemory]) {
      expect(await b.control.get(id)).toMatchObject({
        status: 'ended',
        pausedTo: null,
        endsAtMs: null,
        end: { cause: 'host-lost', detail: expect.stringContaining('killed') },
      });
      await expect(b.control.resume(id)).rejects.toMatchObject({ code: 'gone' });
    }
    expect(await (await b.guest(paused)).recall()).toBe('a thing');
    await requireNothing(b);
  });

  it('that lives: its sandboxes stay untouched', async () => {
    await using both = await Neighbours.make();
    const a = await both.open('a');
    const { id } = await a.control.create({ boot: true });
    const b = await both.open('b');
    expect(await b.control.list()).toEqual([]);
    expect(await b.store.sandboxes.get(id)).toMatchObject({ status: 'running' });
    await requireNothing(a);
  });

  it.each(['before', 'after'] as const)(
    'was killed during a resume: a control plane opened %s it can resume the sandbox',
    async (when) => {
      await using both = await Neighbours.make();
      const a = await both.open('a');
      const early = when === 'before' ? await both.open('b') : undefined;
      const id = await pausedOne(a);
      const held = a.script.hold('start');
      void a.control.resume(id).catch(() => undefined);
      await held.reached;
      await both.kill('a');
      const b = early ?? (await both.open('b'));
      expect(await b.control.resume(id)).toMatchObject({ status: 'running' });
      expect(await (await b.guest(id)).recall()).toBe('a thing');
      await requireNothing(b);
    },
  );

  it.each(['save-state', 'keep-disk', 'commit'] as const)(
    'was killed during a pause, at %s: the sandbox has ended, and nothing is left behind',
    async (phase) => {
      await using both = await Neighbours.make();
      const a = await both.open('a');
      const { id } = await a.control.create({ boot: true });
      const held = a.script.hold(phase);
      void a.control.pause(id, 'disk').catch(() => undefined);
      await held.reached;
      await settle();
      await both.kill('a');
      const b = await both.open('b');
      expect(await b.control.get(id)).toMatchObject({ end: { cause: 'host-lost' } });
      await expect.poll(() => b.stored()).toEqual(NOTHING_STORED);
      await requireNothing(b);
    },
  );
});
