/** Quotas of tenants on the real control plane, without VMs. */
import { describe, expect, it } from 'vitest';
import { removeOwned } from '../../src/api/tenants/administration.ts';
import { tenantPlane } from '../../src/api/tenants/plane.ts';
import { TenantQuotas } from '../../src/api/tenants/quota.ts';
import { NO_QUOTAS, type Quotas, type Sizes } from '../../src/api/tenants/settings.ts';
import { StorageQuota } from '../../src/api/tenants/storage-quota.ts';
import { FakeClock } from '../../src/base/clock.ts';
import { bytes } from '../../src/base/text/bytes.ts';
import { MIB } from '../../src/base/units.ts';
import type { ControlPlane } from '../../src/sandbox/contract/control.ts';
import { BusyError } from '../../src/sandbox/contract/errors.ts';
import { DEFAULTS } from '../../src/sandbox/contract/limits.ts';
import { FakeHost } from '../support/fake-host.ts';

/** VMs map the RAM of one template, so that saves need one base. */
async function openSharing(limits: Partial<Quotas> = {}) {
  const known = { of: () => ({ ...NO_QUOTAS, ...limits }) };
  const gate = new TenantQuotas(known, new FakeClock());
  const host = await FakeHost.open({ gate, mapsMemory: 'differences' });
  const storage = new StorageQuota(known, gate, host.control);
  const planeOf = (tenant: string) => tenantPlane(host.control, tenant, { storage });
  return { host, storage, acme: planeOf('acme'), other: planeOf('other') };
}

async function openWorld(limits: Partial<Quotas & Sizes>) {
  const known = { of: () => ({ ...NO_QUOTAS, ...limits }), sizesOf: () => limits };
  const quotas = new TenantQuotas(known, new FakeClock());
  const host = await FakeHost.open({ gate: quotas, concurrency: 50 });
  await quotas.watch(host.control);
  const storage = new StorageQuota(known, quotas, host.control);
  return { host, quotas, storage, plane: tenantPlane(host.control, 'acme', { storage }) };
}

const DISK = DEFAULTS.diskMib * MIB;

const forkOf = async (plane: ControlPlane, id: string): Promise<void> => {
  const [fork] = await plane.fork(id, { count: 1 });
  if (fork?.ok !== true) throw new Error(fork?.message);
};

const outcomes = async (work: readonly Promise<unknown>[]) => {
  const settled = await Promise.allSettled(work);
  const failed = settled.flatMap((one) => (one.status === 'rejected' ? [one.reason as unknown] : []));
  return { done: settled.length - failed.length, failed };
};

describe('quotas', () => {
  it('50 creations at once: as many as the quota allows, also from the pool', async () => {
    const { host, plane } = await openWorld({ sandboxes: 7 });
    await using _host = host;
    await host.control.setPool({ min: 3, max: 3 });
    await expect.poll(async () => (await host.control.pools())[0]?.ready).toBe(3);
    const { done, failed } = await outcomes(Array.from({ length: 50 }, () => plane.create({})));
    expect(done).toBe(7);
    expect(failed.every((error) => error instanceof BusyError)).toBe(true);
    expect(await plane.list()).toHaveLength(7);
    const [first] = await plane.list();
    await plane.remove(first?.id ?? '');
    await plane.create({});
    await expect(plane.create({})).rejects.toThrow('quota of tenant acme: 7 of 7 sandboxes');
  });

  it('forks count, and fail individually', async () => {
    const { host, plane } = await openWorld({ sandboxes: 3 });
    await using _host = host;
    const { id } = await plane.create({ boot: true });
    const forks = await plane.fork(id, { count: 5 });
    expect(forks.filter(({ ok }) => ok)).toHaveLength(2);
    expect(forks.filter(({ ok }) => !ok)).toMatchObject(Array(3).fill({ code: 'busy' }));
    expect((await plane.list()).every(({ annotations }) => annotations['tenant'] === 'acme')).toBe(true);
  });

  it('memory: a resume counts, and is refused like a start', async () => {
    const { host, plane, quotas } = await openWorld({ memoryMib: 1024 });
    await using _host = host;
    const first = await plane.create({ boot: true, memoryMib: 1024 });
    await plane.pause(first.id, 'disk');
    const second = await plane.create({ boot: true, memoryMib: 512 });
    await expect(plane.resume(first.id)).rejects.toThrow('512 of 1024 MiB of memory');
    // As E2B's interface does it, with a sandbox's own token.
    await expect(host.control.guest(first.id)).rejects.toThrow('quota of tenant acme');
    expect((await plane.get(first.id)).status).toBe('paused');
    await plane.remove(second.id);
    expect((await plane.resume(first.id)).status).toBe('running');
    expect(quotas.useOf('acme')).toMatchObject({ sandboxes: 1, memoryMib: 1024 });
  });

  it('a size above the tenant’s maximum is refused, whatever brings it', async () => {
    const { host, plane, quotas } = await openWorld({ cpusMax: 2, memoryMaxMib: 1024, diskMaxMib: 4096 });
    await using _host = host;
    const large = { boot: true, memoryMib: 2048, annotations: { tenant: 'acme' } };
    await expect(host.control.create(large)).rejects.toMatchObject({
      code: 'forbidden',
      message: 'memoryMib: 2048 is above 1024, the maximum for this key',
      remedy: 'ask for at most 1024; the operator sets that by neurovisor tenant set acme --max-memory',
    });
    const operators = await host.control.create({ boot: true, memoryMib: 2048 });
    const snapshot = await host.control.snapshot(operators.id);
    const from = { snapshot: snapshot.id, annotations: { tenant: 'acme' } };
    await expect(host.control.create(from)).rejects.toMatchObject({ code: 'forbidden' });
    expect(quotas.useOf('acme')).toMatchObject({ sandboxes: 0, memoryMib: 0, storageBytes: 0 });
    await plane.create({ boot: true });
  });

  it('a resume is refused once the maximum is lower', async () => {
    const limits: Partial<Quotas & Sizes> = {};
    const known = { of: () => ({ ...NO_QUOTAS, ...limits }), sizesOf: () => limits };
    const host = await FakeHost.open({ gate: new TenantQuotas(known, new FakeClock()) });
    await using _host = host;
    const plane = tenantPlane(host.control, 'acme');
    const { id } = await plane.create({ boot: true, memoryMib: 1024 });
    await plane.pause(id, 'disk');
    Object.assign(limits, { memoryMaxMib: 512 });
    await expect(plane.resume(id)).rejects.toMatchObject({ code: 'forbidden' });
    expect((await plane.get(id)).status).toBe('paused');
    Object.assign(limits, { memoryMaxMib: 1024 });
    expect((await plane.resume(id)).status).toBe('running');
  });

  it('an image is pulled with the host’s login only where the owner may have it', async () => {
    const known = {
      of: () => NO_QUOTAS,
      mayLogIn: (tenant: string, host: string) => `${tenant} ${host}` === 'acme ghcr.io',
    };
    const pulled: boolean[][] = [];
    const pulls = (_name: string, mayLogIn: (host: string) => boolean) =>
      void pulled.push(['ghcr.io', 'docker.io'].map((host) => mayLogIn(host)));
    await using host = await FakeHost.open({ gate: new TenantQuotas(known, new FakeClock()), pulls });
    for (const plane of [host.control, tenantPlane(host.control, 'acme'), tenantPlane(host.control, 'other')]) {
      await expect(plane.create({ image: 'x' })).rejects.toThrow();
    }
    expect(pulled).toEqual([
      [true, true],
      [true, false],
      [false, false],
    ]);
  });

  it('a sandbox without a timeout gets the longest one, a fork no longer one than that', async () => {
    const { host, plane } = await openWorld({ timeoutMaxMs: 60_000 });
    await using _host = host;
    const endsIn = async (id: string) => ((await plane.get(id)).endsAtMs ?? 0) - host.clock.wall();
    const first = await plane.create({ boot: true });
    expect(await endsIn(first.id)).toBe(60_000);
    const short = await plane.create({ boot: true, timeoutMs: 5000 });
    expect(await endsIn(short.id)).toBe(5000);
    // As if it was made before the operator set the maximum.
    await host.control.update(first.id, { timeoutMs: 3_600_000 });
    const [fork] = await plane.fork(first.id, { count: 1 });
    expect(fork?.ok && (await endsIn(fork.sandbox.id))).toBe(60_000);
    expect((await host.control.create({ boot: true })).endsAtMs).toBeNull();
  });

  it('a start that fails or is cancelled releases its place', async () => {
    const { host, plane, quotas } = await openWorld({ sandboxes: 1 });
    await using _host = host;
    host.script.fail('start', new Error('broken'));
    await expect(plane.create({ boot: true })).rejects.toThrow();
    const held = host.script.hold('start');
    const cancel = new AbortController();
    const made = plane.create({ boot: true }, cancel.signal);
    await held.reached;
    cancel.abort();
    held.release();
    await expect(made).rejects.toThrow();
    expect(quotas.useOf('acme')).toMatchObject({ sandboxes: 0, memoryMib: 0 });
    await plane.create({ boot: true });
  });

  it('the space of snapshots depends only on the tenant’s own, including a shared base', async () => {
    const { host, storage, acme, other } = await openSharing();
    await using _host = host;
    const [mine, theirs] = [await acme.create({}), await other.create({})];
    const [third] = [await host.control.create({})];
    // Each sequence of one tenant, with all the others' before, between and after.
    await other.snapshot(theirs.id, { name: 'before' });
    const one = await acme.snapshot(mine.id, { name: 'one' });
    await other.pause(theirs.id, 'disk');
    const two = await acme.snapshot(mine.id, { name: 'two' });
    const seen = await acme.snapshots();
    expect(seen.map(({ bytes }) => bytes)).toEqual([two.bytes, one.bytes]);
    const baseBytes = (await host.store.snapshots.get(one.id)).baseBytes;
    expect(baseBytes).toBeGreaterThan(0);
    expect(one.bytes - two.bytes).toBe(baseBytes);
    await host.control.snapshot(third.id);
    await other.removeSnapshot('before');
    expect(await acme.snapshots()).toEqual(seen);
    await other.remove(theirs.id);
    expect(await acme.snapshots()).toEqual(seen);
    // As the operator sees it.
    expect((await storage.useOf('acme')).storage.snapshots).toBe(one.bytes + two.bytes);
    // The tenant's own older one is removed: the next one counts with the base.
    await acme.removeSnapshot('one');
    expect((await acme.snapshots()).map(({ bytes }) => bytes)).toEqual([two.bytes + baseBytes]);
  });

  it('storage: a pause counts with the base that it needs, once for a tenant, whatever others save', async () => {
    const { host, acme, other } = await openSharing();
    await using _host = host;
    const [mine, again, theirs] = [await acme.create({}), await acme.create({}), await other.create({})];
    await other.snapshot(theirs.id);
    await acme.pause(mine.id, 'disk');
    await acme.pause(again.id, 'disk');
    const paused = await host.control.pausedBytes();
    const [first = 0, second = 0] = [mine, again].map(({ id }) => paused.get(id));
    const rows = await host.store.snapshots.list();
    const row = rows.find(({ sandboxId }) => sandboxId === mine.id);
    expect(row?.baseBytes).toBeGreaterThan(0);
    expect(first - second).toBe(row?.baseBytes);
    // A snapshot after it counts without the base, and with it once the pause is gone.
    const copy = await acme.snapshot(again.id);
    expect(copy.bytes).toBe(second);
    await acme.resume(mine.id);
    await acme.remove(again.id);
    expect((await acme.snapshots()).map(({ bytes }) => bytes)).toEqual([first]);
  });

  it('storage: nothing is saved once it is used up; snapshots keep their owner', async () => {
    const { host, plane, quotas } = await openWorld({ storageBytes: DISK + 1 });
    await using _host = host;
    const { id } = await plane.create({ boot: true });
    const { done, failed } = await outcomes([1, 2, 3].map(() => plane.snapshot(id)));
    expect([done, failed.length]).toEqual([1, 2]);
    const remedy = expect.stringMatching(/^remove a snapshot, a sandbox or a template, or ask .*--storage/);
    expect(failed).toEqual([expect.objectContaining({ remedy }), expect.objectContaining({ remedy })]);
    await expect(plane.snapshot(id)).rejects.toThrow(`of ${DISK + 1} bytes of storage are used`);
    const refusals = quotas.refusals.metric.samples();
    expect(refusals.find(({ labels }) => labels['quota'] === 'storage')?.value).toBe(3);
    const [snapshot] = await plane.snapshots();
    expect(snapshot?.annotations).toEqual({ tenant: 'acme' });
    expect(await tenantPlane(host.control, 'other').snapshots()).toEqual([]);
    // A pause frees the sandbox's own disk.
    await plane.pause(id, 'disk');
    expect(quotas.useOf('acme').storage.disks).toBe(0);
  });

  it('storage: pauses count, and a disk that has no room beside them is refused', async () => {
    const { host, plane, storage } = await openWorld({ storageBytes: 2 * DISK });
    await using _host = host;
    const { id } = await plane.create({ boot: true });
    await plane.pause(id, 'disk');
    const { pauses } = (await storage.useOf('acme')).storage;
    expect(pauses).toBeGreaterThan(0);
    await plane.create({});
    await expect(plane.create({})).rejects.toThrow(
      `${DISK + pauses} of ${2 * DISK} bytes of storage are used (pauses ${bytes(pauses)}, disks 2.0 GiB), ${DISK} more wanted`,
    );
    await expect(plane.resume(id)).rejects.toThrow('bytes of storage are used');
  });

  it('removeOwned: ends a tenant’s sandboxes and removes its snapshots, nobody else’s', async () => {
    const { host, acme, other } = await openSharing();
    await using _host = host;
    const [mine, paused, theirs] = [await acme.create({}), await acme.create({}), await other.create({})];
    await acme.snapshot(mine.id, { name: 'mine' });
    await acme.pause(paused.id, 'disk');
    const kept = await other.snapshot(theirs.id);
    await acme.createVolume({ name: 'data', sizeMib: 16 });
    await other.createVolume({ name: 'data', sizeMib: 16 });
    const removed = { endedSandboxes: 2, removedSnapshots: 1, removedVolumes: 1 };
    expect(await removeOwned(host.control, 'acme')).toEqual(removed);
    expect(await host.control.volumes()).toMatchObject([{ name: 'other/data' }]);
    expect([await acme.list(), await acme.snapshots()]).toEqual([[], []]);
    expect((await host.control.list()).map(({ id }) => id)).toEqual([theirs.id]);
    expect((await host.control.snapshots()).map(({ id }) => id)).toEqual([kept.id]);
    expect((await host.control.pausedBytes()).size).toBe(0);
  });

  it('storage: 20 creations, forks and builds at once never exceed the quota together', async () => {
    const { host, plane, quotas, storage } = await openWorld({ storageBytes: 5 * DISK });
    await using _host = host;
    const { id } = await plane.create({ boot: true });
    const build = async () => quotas.admitBuild('acme', DEFAULTS.diskMib);
    const work = Array.from({ length: 20 }, (_, at) =>
      at % 3 === 0 ? build() : at % 3 === 1 ? plane.create({}) : forkOf(plane, id),
    );
    expect((await outcomes(work)).done).toBe(4);
    expect((await storage.useOf('acme')).storage).toMatchObject({ disks: 5 * DISK, snapshots: 0 });
  });

  it('storage: each kind counts; kept uploads make way before a refusal', async () => {
    const { host, plane, storage } = await openWorld({ storageBytes: 2 * DISK });
    await using _host = host;
    let uploads = DISK;
    storage.count('templates', () => 1000);
    storage.count('events', () => 24);
    storage.countUploads(
      () => uploads,
      async () => {
        uploads = 100;
      },
    );
    expect((await storage.useOf('acme')).storageBytes).toBe(DISK + 1024);
    await plane.create({ boot: true });
    expect(uploads).toBe(100);
    const kinds = 'disks 2.0 GiB, templates 1000 B, uploads 100 B, events 24 B';
    await expect(plane.create({})).rejects.toThrow(`bytes of storage are used (${kinds}), ${DISK} more wanted`);
    expect(await storage.uploadRoomOf('acme').bytes()).toBe(DISK - 1024);
    expect(storage.uploadRoomOf('acme').refusal(50, 7).message).toContain('uploads 50 B');
  });
});
