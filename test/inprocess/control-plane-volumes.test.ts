/** Volumes: who may have one and until when, what refuses them. No VMs, but the store's files and locks. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { tenantPlane } from '../../src/api/tenants/plane.ts';
import { TenantQuotas } from '../../src/api/tenants/quota.ts';
import { NO_QUOTAS, TenantStore, UNSET_CEILING } from '../../src/api/tenants/settings.ts';
import { StorageQuota } from '../../src/api/tenants/storage-quota.ts';
import { FakeClock } from '../../src/base/clock.ts';
import { MIB } from '../../src/base/units.ts';
import { openVolume } from '../../src/sandbox/contract/open-volume.ts';
import { FakeHost } from '../support/fake-host.ts';
import { requireNothing } from '../support/fake-leftovers.ts';

const DATA = { name: 'data', path: '/data' };
const READ = { ...DATA, readOnly: true };

const inUse = (id: string): unknown =>
  expect.objectContaining({
    code: 'in_use',
    message: expect.stringContaining(id),
    remedy: expect.stringContaining(':ro'),
  });

async function open(options: Parameters<typeof FakeHost.open>[0] = {}): Promise<FakeHost> {
  const host = await FakeHost.open(options);
  await host.control.createVolume({ name: 'data', sizeMib: 64 });
  return host;
}

it('createVolume, volumes, removeVolume: a name is unique, and free once its volume is removed', async () => {
  await using host = await open();
  const { control } = host;
  const [made] = await control.volumes();
  expect(made).toMatchObject({ name: 'data', sizeMib: 64, bytes: 0, attached: [] });
  await expect(control.createVolume({ name: 'data' })).rejects.toMatchObject({ code: 'name_taken' });
  await control.removeVolume('data');
  expect(await control.volumes()).toEqual([]);
  await expect(control.removeVolume('data')).rejects.toMatchObject({ code: 'not_found' });
  const again = await control.createVolume({ name: 'data' });
  expect(again).toMatchObject({ sizeMib: 2048 });
  await control.removeVolume(again.id);
  expect(await control.volumes()).toEqual([]);
});

it.each([{ name: '../x' }, { name: 'A' }, { name: '' }, { name: 'x', sizeMib: 0 }, { name: 'x', sizeMib: 1e9 }])(
  'createVolume: refuses %j and keeps nothing',
  async (request) => {
    await using host = await FakeHost.open({});
    await expect(host.control.createVolume(request)).rejects.toMatchObject({ code: 'spec_invalid' });
    expect(await host.control.volumes()).toEqual([]);
  },
);

it('createVolume: leaves nothing if the disk is full', async () => {
  await using host = await FakeHost.open({});
  host.script.next('overlay', () => {
    throw Object.assign(new Error('full'), { code: 'ENOSPC' });
  });
  await expect(host.control.createVolume({ name: 'data' })).rejects.toMatchObject({ code: 'disk_full' });
  expect(await host.control.volumes()).toEqual([]);
});

it('create: the guest mounts the volume, and the VM has it until the sandbox ends', async () => {
  await using host = await open();
  const { control } = host;
  const { id, volumes } = await control.create({ volumes: [DATA] });
  expect(volumes).toEqual([DATA]);
  expect(host.identities.at(-1)).toMatchObject({ volumes: [{ serial: 'volume0', path: '/data', readOnly: false }] });
  const vm = host.vm(id);
  expect(vm.volumes).toMatchObject([{ access: 'write' }]);
  await expect(control.create({ volumes: [DATA] })).rejects.toEqual(inUse(id));
  await expect(control.create({ volumes: [READ] })).rejects.toEqual(inUse(id));
  await expect(control.removeVolume('data')).rejects.toEqual(inUse(id));
  await control.remove(id);
  expect(vm.hasFrozenVolumes).toBe(true);
  expect(await control.volumes()).toMatchObject([{ attached: [] }]);
  const next = await control.create({ volumes: [DATA] });
  await control.remove(next.id);
  await control.removeVolume('data');
  await requireNothing(host);
});

it('create: any number of sandboxes read a volume, and none writes it meanwhile', async () => {
  await using host = await open();
  const { control } = host;
  const readers = [await control.create({ volumes: [READ] }), await control.create({ volumes: [READ] })];
  for (const { id } of readers) expect(host.vm(id).volumes).toMatchObject([{ access: 'read' }]);
  await expect(control.create({ volumes: [DATA] })).rejects.toMatchObject({ code: 'in_use' });
  const vms = readers.map(({ id }) => host.vm(id));
  for (const { id } of readers) await control.remove(id);
  expect(vms.map((vm) => vm.hasFrozenVolumes)).toEqual([false, false]);
  await control.create({ volumes: [DATA] });
});

it('pause: the sandbox keeps its volume while it is paused to disk, also for another process', async () => {
  await using host = await open();
  const { control } = host;
  const { id } = await control.create({ volumes: [DATA] });
  await control.pause(id, 'disk');
  expect(await control.volumes()).toMatchObject([{ attached: [{ sandbox: id, readOnly: false }] }]);
  await using other = await FakeHost.open({ dataDir: host.dataDir, owner: 'two' });
  for (const plane of [control, other.control]) {
    await expect(plane.create({ volumes: [READ] })).rejects.toEqual(inUse(id));
    await expect(plane.removeVolume('data')).rejects.toEqual(inUse(id));
  }
  await control.resume(id);
  expect(host.vm(id).volumes).toMatchObject([{ access: 'write' }]);
  await control.pause(id, 'disk');
  await control.remove(id);
  await control.removeVolume('data');
});

it('reconcile: the volume of a killed process is free at the next start', async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'nv-volumes-'));
  await using cleanup = new AsyncDisposableStack();
  cleanup.defer(() => rm(dataDir, { recursive: true }));
  const host = await open({ dataDir });
  const { id } = await host.control.create({ volumes: [DATA] });
  await host.control.update(id, { metadata: { seen: 'yes' } });
  await host.kill();
  await using next = await FakeHost.open({ dataDir, owner: 'next' });
  // The kernel releases the lock of a process that is killed; this one lives.
  expect(await next.control.volumes()).toMatchObject([{ attached: [] }]);
});

it('snapshot, fork: refused with a volume that it writes, also while paused', async () => {
  await using host = await open();
  const { control } = host;
  const { id } = await control.create({ volumes: [DATA] });
  const refused = { code: 'in_use', remedy: expect.stringContaining('neurovisor cp') };
  for (const pause of [false, true]) {
    if (pause) await control.pause(id, 'disk');
    await expect(control.snapshot(id)).rejects.toMatchObject(refused);
    await expect(control.fork(id, { count: 1 })).rejects.toMatchObject(refused);
  }
  expect(await control.snapshots()).toEqual([]);
});

it('fork: forks read the volumes that their original only reads; it has no snapshots, since nobody would have them', async () => {
  await using host = await open();
  const { control } = host;
  const { id } = await control.create({ volumes: [READ] });
  for (const pause of [false, true]) {
    if (pause) await control.pause(id, 'disk');
    await expect(control.snapshot(id)).rejects.toMatchObject({ code: 'in_use' });
    const forks = await control.fork(id, { count: 2 });
    const ids = forks.map((one) => (one.ok ? one.sandbox.id : expect.fail(one.message)));
    for (const fork of ids) expect(host.vm(fork).volumes).toMatchObject([{ access: 'read' }]);
    const [volume] = await control.volumes();
    expect(volume?.attached.map(({ sandbox }) => sandbox).toSorted()).toEqual([id, ...ids].toSorted());
    for (const fork of ids) await control.remove(fork);
  }
  await control.remove(id);
  await control.removeVolume('data');
  await requireNothing(host);
});

it('create: fails, and frees the volume, if the guest can not mount it', async () => {
  await using host = await open();
  const { control } = host;
  host.script.next('hello', (vm) => {
    if (vm !== undefined) vm.problems = ["volume '/data' could not be mounted: bad superblock"];
  });
  const failure = { code: 'volumes_unavailable', message: expect.stringContaining('bad superblock') };
  await expect(control.create({ volumes: [DATA] })).rejects.toMatchObject(failure);
  expect(await control.list()).toEqual([]);
  expect(await control.volumes()).toMatchObject([{ attached: [] }]);
  await requireNothing(host);
});

it('create: fails without a volume of this name, or without its file', async () => {
  await using host = await open();
  const { control } = host;
  await expect(control.create({ volumes: [{ name: 'none', path: '/x' }] })).rejects.toMatchObject({
    code: 'not_found',
  });
  const [made] = await control.volumes();
  await rm(join(host.dataDir, 'volumes', made?.id ?? ''));
  await expect(control.create({ volumes: [DATA] })).rejects.toMatchObject({ code: 'not_found' });
  await control.removeVolume('data');
});

it.each([
  [{ name: 'data', path: 'data' }],
  [{ name: 'data', path: '/' }],
  [{ name: 'data', path: '/proc/x' }],
  [{ name: 'data', path: '/etc' }],
  [{ name: 'data', path: '/a/../etc' }],
  [{ name: 'data', path: '/a\u0000b' }],
  [DATA, { name: 'data', path: '/other' }],
  [DATA, { name: 'b', path: '/data/within' }],
  [{ name: 'b', path: '/data/within' }, DATA],
])('create: refuses the places %j %j', async (...volumes) => {
  await using host = await open();
  await expect(host.control.create({ volumes })).rejects.toMatchObject({ code: 'spec_invalid' });
});

it('tenantPlane: a tenant sees, mounts and removes only its own volumes, within its quotas', async () => {
  await using host = await open();
  const { control } = host;
  const tenants = new TenantStore(join(host.dir, 'tenants'));
  tenants.set('mine', { storageBytes: 100 * MIB, diskMaxMib: 80 });
  const quotas = new TenantQuotas(tenants, host.clock);
  const storage = new StorageQuota(tenants, quotas, control);
  const [mine, other] = ['mine', 'other'].map((name) =>
    tenantPlane(control, name, { storage, ceilingOf: (tenant) => tenants.get(tenant) }),
  );
  if (mine === undefined || other === undefined) throw new Error('no planes');
  expect(await mine.volumes()).toEqual([]);
  await expect(mine.create({ volumes: [DATA] })).rejects.toMatchObject({ code: 'not_found' });
  await expect(mine.removeVolume('data')).rejects.toMatchObject({ code: 'not_found' });
  await expect(mine.createVolume({ name: 'data', sizeMib: 81 })).rejects.toMatchObject({ code: 'forbidden' });
  expect(await mine.createVolume({ name: 'data', sizeMib: 64 })).toMatchObject({ name: 'data' });
  await expect(mine.createVolume({ name: 'more', sizeMib: 64 })).rejects.toMatchObject({
    code: 'busy',
    quota: 'storage',
  });
  expect((await storage.useOf('mine')).storage.volumes).toBe(64 * MIB);
  await other.createVolume({ name: 'data', sizeMib: 64 });
  expect((await control.volumes()).map(({ name }) => name)).toEqual(['data', 'mine/data', 'other/data']);
  const made = await other.create({ volumes: [DATA] });
  expect(made.volumes).toEqual([DATA]);
  expect((await other.get(made.id)).volumes).toEqual([DATA]);
  await other.remove(made.id);
  await other.removeVolume('data');
  expect((await mine.volumes()).map(({ name }) => name)).toEqual(['data']);
});

it('openVolume: in the running sandbox that has it, otherwise in one that ends with the work', async () => {
  await using host = await open();
  const { control } = host;
  {
    await using opened = await openVolume(control, { volume: 'data', access: 'read' });
    const [made] = await control.list();
    expect(made).toMatchObject({ volumes: [{ name: 'data', path: opened.root, readOnly: false }] });
    expect(made?.endsAtMs).toBe(host.clock.wall() + 3_600_000);
    // Nobody else's work depends on that one.
    await expect(openVolume(control, { volume: 'data', access: 'read' })).rejects.toEqual(inUse(made?.id ?? ''));
  }
  expect(await control.list()).toEqual([]);

  const reader = await control.create({ volumes: [READ] });
  await using shared = await openVolume(control, { volume: 'data', access: 'read' });
  expect(shared.root).toBe('/data');
  expect(await control.list()).toHaveLength(1);
  await expect(openVolume(control, { volume: 'data', access: 'write' })).rejects.toEqual(inUse(reader.id));
  await control.pause(reader.id, 'disk');
  {
    await using _beside = await openVolume(control, { volume: 'data', access: 'read' });
    expect(await control.volumes()).toMatchObject([{ attached: [{ readOnly: true }, { readOnly: true }] }]);
  }
  await expect(openVolume(control, { volume: 'none', access: 'read' })).rejects.toMatchObject({ code: 'not_found' });
});

it('openVolume: of a tenant, for no longer than its sandboxes may last', async () => {
  const timeoutMaxMs = 60_000;
  const gate = new TenantQuotas({ of: () => NO_QUOTAS, sizesOf: () => ({ timeoutMaxMs }) }, new FakeClock());
  await using host = await open({ gate });
  const mine = tenantPlane(host.control, 'mine', { ceilingOf: () => ({ ...UNSET_CEILING, timeoutMaxMs }) });
  await expect(openVolume(mine, { volume: 'data', access: 'read' })).rejects.toMatchObject({ code: 'not_found' });
  await mine.createVolume({ name: 'data', sizeMib: 64 });
  await using _opened = await openVolume(mine, { volume: 'data', access: 'write' });
  expect(await mine.list()).toMatchObject([
    { volumes: [{ name: 'data' }], endsAtMs: host.clock.wall() + timeoutMaxMs },
  ]);
});
