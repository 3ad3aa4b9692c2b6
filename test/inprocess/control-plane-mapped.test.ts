/** Sandboxes whose VMM maps the RAM that they start from. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openGate } from '../../src/sandbox/start/start-gate.ts';
import type { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import { eventually } from '../support/eventually.ts';
import { FakeHost } from '../support/fake-host.ts';
import { requireNothing } from '../support/fake-leftovers.ts';
import type { FakeGuest } from '../support/fake-vm.ts';

const open = (): Promise<FakeHost> => FakeHost.open({ mapsMemory: true });
const openSharing = (): Promise<FakeHost> => FakeHost.open({ mapsMemory: 'differences' });
const recall = async (host: FakeHost, id: string): Promise<string> =>
  await ((await host.guest(id)) as FakeGuest).recall();

describe('LocalControlPlane: mapped RAM', () => {
  it('create: a clone maps its template and copies nothing', async () => {
    await using host = await open();
    host.script.fail('fill-memory');
    const { id, origin } = await host.control.create({});
    expect(origin).toBe('clone');
    expect(await recall(host, id)).toBe('of the template');
    expect((await host.holdings())['mappings']).toBe(1);
    await host.control.remove(id);
    expect((await host.holdings())['mappings']).toBeUndefined();
  });

  it('tenants: each shares only with itself, whatever a sandbox starts from; pool members share with no one', async () => {
    const supervisors: Supervisor[] = [];
    const gate = {
      ...openGate,
      ownerOf: (annotations: Record<string, string>) => annotations['of'] ?? 'operator',
      sharersOf: (annotations: Record<string, string> | null) => annotations?.['of'] ?? null,
    };
    const watch = (one: Supervisor): number => supervisors.push(one);
    await using host = await FakeHost.open({ mapsMemory: true, gate, watch });
    const annotations = { of: 'acme' };
    const { id, sharesMemory } = await host.control.create({ annotations });
    expect(sharesMemory).toBe(true);
    await host.control.create({ annotations: { of: 'other' } });
    await host.control.fork(id, { count: 1 });
    await host.control.snapshot(id, { name: 'kept' });
    await host.control.create({ snapshot: 'kept', annotations });
    const sharers = (): (string | null)[] => supervisors.map((one) => one.sharers);
    expect(sharers()).toEqual(['acme', 'other', 'acme', 'acme']);
    await host.control.setPool({ min: 1, max: 1 });
    await eventually(async () => expect((await host.control.pools())[0]?.ready).toBe(1));
    const claimed = await host.control.create({ annotations });
    expect(claimed).toMatchObject({ origin: 'pool', sharesMemory: false });
    expect(sharers()[4]).toBeNull();
  });

  it('pause to disk and resume, twice: the guest keeps its memory, changed or not', async () => {
    await using host = await open();
    const { id } = await host.control.create({});
    for (const text of ['one', 'two']) {
      await (await host.guest(id)).remember(text);
      await host.control.pause(id, 'disk');
      expect((await host.holdings())['mappings']).toBeUndefined();
      await host.control.resume(id);
      expect(await recall(host, id)).toBe(text);
      await host.control.pause(id, 'disk');
      await host.control.resume(id);
      expect(await recall(host, id)).toBe(text);
    }
    await requireNothing(host);
  });

  it('snapshot: sandboxes map it, even after its removal, and change only their own RAM', async () => {
    await using host = await open();
    const { id } = await host.control.create({});
    await (await host.guest(id)).remember('a thing');
    await host.control.snapshot(id, { name: 'kept' });
    const [one, two] = [
      await host.control.create({ snapshot: 'kept' }),
      await host.control.create({ snapshot: 'kept' }),
    ];
    await host.control.removeSnapshot('kept');
    await (await host.guest(one.id)).remember('another');
    for (const each of [one, two]) {
      await host.control.pause(each.id, 'disk');
      await host.control.resume(each.id);
    }
    expect(await recall(host, one.id)).toBe('another');
    expect(await recall(host, two.id)).toBe('a thing');
    expect(await recall(host, id)).toBe('a thing');
    await requireNothing(host);
  });

  it('fork: the forks map one file, which is removed when all have started; forks can be forked', async () => {
    await using host = await open();
    const { id } = await host.control.create({});
    await (await host.guest(id)).remember('a thing');
    const ids: string[] = [];
    for (const of of [id, id]) {
      for (const fork of await host.control.fork(ids.at(-1) ?? of, { count: 2 })) {
        if (!fork.ok) throw new Error(fork.message);
        ids.push(fork.sandbox.id);
      }
    }
    expect(await host.stored()).toMatchObject({ files: 0, staged: 0, trash: 0 });
    expect((await host.holdings())['memories']).toBe(5);
    for (const each of ids) expect(await recall(host, each)).toBe('a thing');
    await requireNothing(host);
  });

  it.each(['map-memory', 'fill-memory', 'keep-memory'] as const)(
    'a failing %s leaves the sandbox as it was, and nothing else',
    async (phase) => {
      await using host = await open();
      const { id } = await host.control.create({});
      await (await host.guest(id)).remember('a thing');
      if (phase === 'map-memory') {
        await host.control.pause(id, 'disk');
        host.script.fail(phase);
        await expect(host.control.resume(id)).rejects.toBeDefined();
        expect(await host.holdings()).toEqual({});
        await host.control.resume(id);
      } else {
        host.script.fail(phase);
        await expect(host.control.pause(id, 'disk')).rejects.toBeDefined();
        await host.control.pause(id, 'disk');
        await host.control.resume(id);
      }
      expect(await recall(host, id)).toBe('a thing');
      await requireNothing(host);
    },
  );
});

/** By role, the digests of all snapshots and pauses, newest first. */
const files = async (host: FakeHost) => (await host.store.snapshots.list()).map((row) => row.files);

describe('LocalControlPlane: saves of a VM’s changes', () => {
  it('pause: writes a difference and, once, the base; the resume maps the base again', async () => {
    await using host = await openSharing();
    const { id } = await host.control.create({});
    const bases: (string | undefined)[] = [];
    for (const text of ['one', 'two', 'two']) {
      await (await host.guest(id)).remember(text);
      if (bases.length > 0) host.script.fail('keep-memory');
      await host.control.pause(id, 'disk');
      const [{ ram, base, difference } = {}] = await files(host);
      expect([ram, difference]).toEqual([undefined, expect.any(String)]);
      bases.push(base);
      expect((await host.holdings())['mappings']).toBeUndefined();
      // Nothing is copied, neither to disk nor into memory.
      host.script.fail('fill-memory');
      await host.control.resume(id);
      expect(await recall(host, id)).toBe(text);
      expect((await host.holdings())['mappings']).toBe(1);
      // Its next pause needs the base.
      await expect.poll(async () => (await host.stored()).files).toBe(1);
      host.script.forget();
    }
    expect(new Set(bases).size).toBe(1);
    await host.control.remove(id);
    expect((await host.stored()).files).toBe(0);
    await requireNothing(host);
  });

  it('a VM that has changed more than half of its mapped RAM is saved whole, and resumes with a copy', async () => {
    await using host = await openSharing();
    const { id } = await host.control.create({});
    await (await host.guest(id)).remember('much');
    host.vm(id).ownPart = 0.6;
    await host.control.pause(id, 'disk');
    const [{ ram, base, difference } = {}] = await files(host);
    expect([ram, base, difference]).toEqual([expect.any(String), undefined, undefined]);
    await host.control.resume(id);
    expect(await recall(host, id)).toBe('much');
    expect((await host.holdings())['mappings']).toBeUndefined();
    await requireNothing(host);
  });

  it('snapshots share a base, which stays until the last of them is removed, and counts once', async () => {
    await using host = await openSharing();
    const { id } = await host.control.create({});
    for (const name of ['one', 'two']) {
      await (await host.guest(id)).remember(name);
      await host.control.snapshot(id, { name });
    }
    await host.control.remove(id);
    // One base; for each snapshot a state and a difference; the disk, which is the same.
    expect((await host.stored()).files).toBe(5);
    const [two, one] = await host.control.snapshots();
    expect((one?.bytes ?? 0) > (two?.bytes ?? 0)).toBe(true);
    await host.control.removeSnapshot('one');
    expect((await host.control.snapshots()).map(({ bytes }) => bytes)).toEqual([one?.bytes]);
    const started = await host.control.create({ snapshot: 'two' });
    await host.control.removeSnapshot('two');
    expect(await recall(host, started.id)).toBe('two');
    expect((await host.stored()).files).toBe(0);
    // Its mapped RAM, whose file is gone.
    await host.control.pause(started.id, 'disk');
    await host.control.resume(started.id);
    expect(await recall(host, started.id)).toBe('two');
    await requireNothing(host);
  });

  it('a snapshot of a paused sandbox needs its base, too', async () => {
    await using host = await openSharing();
    const { id } = await host.control.create({});
    await (await host.guest(id)).remember('a thing');
    await host.control.pause(id, 'disk');
    host.script.fail('keep-memory');
    await host.control.snapshot(id, { name: 'kept' });
    await host.control.snapshot(id, { name: 'disk', diskOnly: true });
    host.script.forget();
    await host.control.remove(id);
    const { id: copy } = await host.control.create({ snapshot: 'kept' });
    expect(await recall(host, copy)).toBe('a thing');
    await requireNothing(host);
  });

  it('fork: children map the base of their parent and get its changes; forks can be forked', async () => {
    await using host = await openSharing();
    const { id } = await host.control.create({});
    await (await host.guest(id)).remember('a thing');
    const ids: string[] = [];
    host.script.fail('keep-memory');
    host.script.fail('fill-memory');
    for (const of of [id, id]) {
      for (const fork of await host.control.fork(ids.at(-1) ?? of, { count: 2 })) {
        if (!fork.ok) throw new Error(fork.message);
        ids.push(fork.sandbox.id);
      }
    }
    host.script.forget();
    expect(await host.stored()).toMatchObject({ files: 0, staged: 0, trash: 0 });
    expect(await host.holdings()).toMatchObject({ memories: 5, mappings: 5 });
    await host.control.remove(id);
    for (const each of ids) expect(await recall(host, each)).toBe('a thing');
    // A parent that has changed much has RAM of its own for its forks.
    const [parent = ''] = ids;
    await (await host.guest(parent)).remember('much');
    host.vm(parent).ownPart = 0.6;
    const [child] = await host.control.fork(parent, { count: 1 });
    if (child?.ok !== true) throw new Error('no fork');
    expect(await recall(host, child.sandbox.id)).toBe('much');
    await host.control.pause(child.sandbox.id, 'disk');
    await host.control.resume(child.sandbox.id);
    expect(await recall(host, child.sandbox.id)).toBe('much');
    await requireNothing(host);
  });

  it.each(['base', 'difference', 'state', 'disk'] as const)(
    'a missing or damaged %s is refused; the sandbox stays paused and resumes once it is back',
    async (role) => {
      await using host = await openSharing();
      const { id } = await host.control.create({});
      await (await host.guest(id)).remember('a thing');
      await host.control.pause(id, 'disk');
      const [{ [role]: digest = '' } = {}] = await files(host);
      const path = join(host.dataDir, 'files', digest);
      const whole = await readFile(path);
      const refused = async (): Promise<void> => {
        await expect(host.control.resume(id)).rejects.toMatchObject({ code: 'snapshot_damaged' });
        expect((await host.control.get(id)).status).toBe('paused');
        expect(await host.holdings()).toEqual({});
      };
      await rm(path);
      await refused();
      for (const wrong of [Buffer.alloc(whole.length), whole.subarray(1), Buffer.alloc(0)]) {
        await writeFile(path, wrong);
        await refused();
      }
      await writeFile(path, whole);
      await host.control.resume(id);
      expect(await recall(host, id)).toBe('a thing');
      await requireNothing(host);
    },
  );

  it('a damaged base is written again by the next save that needs it', async () => {
    await using host = await openSharing();
    const [one, two] = [await host.control.create({}), await host.control.create({})];
    await host.control.pause(one.id, 'disk');
    const [{ base = '' } = {}] = await files(host);
    await writeFile(join(host.dataDir, 'files', base), 'x');
    await host.control.pause(two.id, 'disk');
    for (const { id } of [one, two]) {
      await host.control.resume(id);
      expect(await recall(host, id)).toBe('of the template');
    }
    await requireNothing(host);
  });

  it.each([
    ['own-bytes', 'snapshot_failed'],
    ['keep-memory', 'disk_full'],
    ['save-changes', 'disk_full'],
  ] as const)('a failing %s: %s; the sandbox continues, and nothing is left behind', async (phase, code) => {
    await using host = await openSharing();
    const { id } = await host.control.create({});
    await (await host.guest(id)).remember('a thing');
    const full = Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' });
    host.script.fail(phase, code === 'disk_full' ? full : undefined);
    const remedy = expect.any(String);
    await expect(host.control.pause(id, 'disk')).rejects.toMatchObject(
      code === 'disk_full' ? { code, remedy } : { code },
    );
    expect(await host.stored()).toMatchObject({ files: 0, staged: 0, trash: 0, snapshots: 0 });
    expect(await recall(host, id)).toBe('a thing');
    await host.control.pause(id, 'disk');
    await host.control.resume(id);
    expect(await recall(host, id)).toBe('a thing');
    await requireNothing(host);
  });

  it.each(['own-bytes', 'save-changes', 'save-state'] as const)(
    'a VMM that dies in %s: gone, and nothing is left behind',
    async (phase) => {
      await using host = await openSharing();
      const { id } = await host.control.create({});
      host.script.die(phase);
      await expect(host.control.pause(id, 'disk')).rejects.toMatchObject({ code: 'gone' });
      expect(await host.stored()).toMatchObject({ files: 0, staged: 0, trash: 0, snapshots: 0 });
      await requireNothing(host);
    },
  );

  it('a host that shares no RAM resumes pauses from a host that does', async () => {
    const dataDir = await mkdtemp(join(tmpdir(), 'nv-mapped-'));
    try {
      let id = '';
      {
        await using host = await FakeHost.open({ mapsMemory: 'differences', dataDir });
        ({ id } = await host.control.create({}));
        await (await host.guest(id)).remember('a thing');
        await host.control.pause(id, 'disk');
      }
      await using host = await FakeHost.open({ dataDir });
      await host.control.resume(id);
      expect(await recall(host, id)).toBe('a thing');
      await host.control.pause(id, 'disk');
      expect(await files(host)).toEqual([expect.objectContaining({ ram: expect.any(String) })]);
      // No pause with a base is left.
      await host.control.resume(id);
      await expect.poll(async () => (await host.stored()).files).toBe(0);
    } finally {
      await rm(dataDir, { recursive: true, force: true });
      await rm(`${dataDir}.key`, { force: true });
    }
  });
});
