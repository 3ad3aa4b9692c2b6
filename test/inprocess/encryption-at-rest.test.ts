/** Encrypted pauses, snapshots and forks: nothing of a guest on the disk, and nothing unverified in a VM. No VMs. */
import {
  chmodSync,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { describe, expect, it, onTestFinished } from 'vitest';
import { eraseFile, ownerKeyPath } from '../../src/base/key-file.ts';
import { silentLog } from '../../src/base/log.ts';
import { openControlPlane } from '../../src/host/runtime/control.ts';
import type { Runtime } from '../../src/host/runtime/runtime.ts';
import { openGate } from '../../src/sandbox/start/start-gate.ts';
import { digestOf } from '../../src/sandbox/store/snapshot.ts';
import type { FakeSharing } from '../support/fake-copies.ts';
import { FakeHost, type FakeHostOptions } from '../support/fake-host.ts';
import { requireNothing } from '../support/fake-leftovers.ts';
import type { FakeGuest } from '../support/fake-vm.ts';
import { temporaryDir } from '../support/store.ts';

const SECRET = 'the thought of a guest';
const ON_DISK = `on its disk: ${SECRET}`;
const SHARING: readonly FakeSharing[] = [false, 'differences'];

const open = (options: FakeHostOptions = {}): Promise<FakeHost> => FakeHost.open({ encrypts: true, ...options });
const recall = async (host: FakeHost, id: string): Promise<string> =>
  await ((await host.guest(id)) as FakeGuest).recall();

/** A sandbox whose guest has the secret in its memory and on its disk. */
async function begin(host: FakeHost, snapshot?: string): Promise<string> {
  const { id } = await host.control.create(snapshot === undefined ? {} : { snapshot });
  await (await host.guest(id)).remember(SECRET);
  writeFileSync(diskOf(host, id), ON_DISK);
  return id;
}

const diskOf = (host: FakeHost, id: string): string => join(dirname(host.vm(id).channelPath), 'overlay');

/** Files of a directory that contain the secret. */
function leaks(dir: string): string[] {
  const paths = readdirSync(dir, { recursive: true, encoding: 'utf8' }).map((name) => join(dir, name));
  return paths.filter((path) => statSync(path).isFile() && readFileSync(path).includes(SECRET));
}

const filesOf = ({ dataDir }: FakeHost): string[] =>
  readdirSync(join(dataDir, 'files')).map((name) => join(dataDir, 'files', name));
const keysOf = ({ dataDir }: FakeHost): string => `${dataDir}.keys`;

describe.each(SHARING)('encrypted saves, with VMs that map their RAM: %s', (mapsMemory) => {
  it('a pause has nothing of the guest, where a plain one has all of it; both resume', async () => {
    for (const encrypts of [false, true]) {
      await using host = await open({ mapsMemory, encrypts });
      const id = await begin(host);
      await host.control.pause(id, 'disk');
      expect(filesOf(host).length).toBeGreaterThan(2);
      expect(leaks(host.dataDir).length > 0).toBe(!encrypts);
      await host.control.resume(id);
      expect(await recall(host, id)).toBe(SECRET);
      expect(readFileSync(diskOf(host, id), 'utf8')).toBe(ON_DISK);
      await host.control.remove(id);
      await requireNothing(host);
    }
  });

  it('a snapshot, its copies, and a pause of a sandbox that began with it', async () => {
    await using host = await open({ mapsMemory });
    const id = await begin(host);
    await host.control.snapshot(id, { name: 'mine' });
    await host.control.pause(id, 'disk');
    await host.control.snapshot(id, { name: 'copied' });
    expect(leaks(host.dataDir)).toEqual([]);
    for (const name of ['mine', 'copied']) {
      const { id: other } = await host.control.create({ snapshot: name });
      expect(await recall(host, other)).toBe(SECRET);
      await host.control.pause(other, 'disk');
      expect(leaks(host.dataDir)).toEqual([]);
      await host.control.resume(other);
      expect(await recall(host, other)).toBe(SECRET);
    }
    await requireNothing(host);
  });

  it('forks: their parent’s copy and their own pauses', async () => {
    await using host = await open({ mapsMemory, concurrency: 8 });
    const id = await begin(host);
    const parent = host.script.holdOf('plug', host.vm(id));
    const forking = host.control.fork(id, { count: 2 });
    await expect.poll(() => host.started).toBe(3);
    expect((await host.stored()).staged).toBeGreaterThan(0);
    expect(leaks(host.dataDir)).toEqual([]);
    parent.release();
    const forks = await forking;
    for (const fork of forks) {
      if (!fork.ok) throw new Error(fork.message);
      expect(await recall(host, fork.sandbox.id)).toBe(SECRET);
      await host.control.pause(fork.sandbox.id, 'disk');
      expect(leaks(host.dataDir)).toEqual([]);
      await host.control.resume(fork.sandbox.id);
      expect(await recall(host, fork.sandbox.id)).toBe(SECRET);
    }
    await requireNothing(host);
  });

  it.each(['flipped', 'cut', 'empty'] as const)(
    'each file of a pause %s: refused, and none of it starts',
    async (how) => {
      await using host = await open({ mapsMemory });
      const id = await begin(host);
      await host.control.pause(id, 'disk');
      const started = host.started;
      for (const path of filesOf(host)) {
        const whole = readFileSync(path);
        damage(path, how);
        await expect(host.control.resume(id)).rejects.toMatchObject({ code: 'snapshot_damaged' });
        writeFileSync(path, whole);
      }
      expect(host.started).toBe(started);
      await host.control.resume(id);
      expect(await recall(host, id)).toBe(SECRET);
      await requireNothing(host);
    },
  );

  it.each(['ram', 'difference', 'state', 'disk'] as const)(
    'an altered %s that its row was made to name',
    async (role) => {
      await using host = await open({ mapsMemory });
      const id = await begin(host);
      await host.control.pause(id, 'disk');
      const row = await host.store.snapshots.get((await host.store.sandboxes.get(id)).pausedSnapshotId ?? '');
      const { [role]: digest } = row.files;
      if (digest === undefined) return expect(role).toBe(mapsMemory === false ? 'difference' : 'ram');
      const path = join(host.dataDir, 'files', digest);
      damage(path, 'flipped');
      const named = await digestOf(role, path);
      writeFileSync(join(host.dataDir, 'files', named), readFileSync(path));
      using db = new DatabaseSync(join(host.dataDir, 'store.db'));
      db.prepare('UPDATE snapshotFiles SET digest = ? WHERE snapshotId = ? AND role = ?').run(named, row.id, role);
      const refused = { code: 'snapshot_damaged', message: expect.stringContaining(`its ${role} can't be decrypted`) };
      const started = host.started;
      await expect(host.control.resume(id)).rejects.toMatchObject(refused);
      expect(host.started).toBe(started);
      await requireNothing(host);
    },
  );
});

function damage(path: string, how: 'flipped' | 'cut' | 'empty'): void {
  const bytes = readFileSync(path);
  if (how === 'flipped') {
    const at = Math.floor(bytes.length / 2);
    bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
    writeFileSync(path, bytes);
  } else truncateSync(path, how === 'cut' ? bytes.length - 1 : 0);
}

describe('keys of owners', () => {
  it('one per owner, readable by this user alone; a forgotten owner’s saves are unreadable, others’ stay', async () => {
    const gate = { ...openGate, ownerOf: ({ tenant }: Record<string, string>) => `tenant ${tenant}` };
    await using host = await open({ gate });
    const ids: string[] = [];
    for (const tenant of ['acme', 'other']) {
      const { id } = await host.control.create({ annotations: { tenant } });
      await (await host.guest(id)).remember(SECRET);
      await host.control.pause(id, 'disk');
      ids.push(id);
    }
    expect(readdirSync(keysOf(host)).sort()).toEqual(['tenant.acme', 'tenant.other']);
    for (const name of ['tenant.acme', 'tenant.other']) {
      expect(statSync(join(keysOf(host), name)).mode & 0o777).toBe(0o600);
    }
    const [acme = '', other = ''] = ids;
    expect(await eraseFile(ownerKeyPath(keysOf(host), 'tenant acme'))).toBe(true);
    const gone = { code: 'snapshot_damaged', message: expect.stringContaining('tenant.acme was removed or replaced') };
    await expect(host.control.resume(acme)).rejects.toMatchObject(gone);
    await expect(host.control.fork(acme, { count: 1 })).rejects.toMatchObject(gone);
    await expect(host.control.snapshot(acme, { name: 'mine' })).rejects.toMatchObject(gone);
    // A later tenant of this name has another key, with which nothing can be read either.
    const later = await host.control.create({ annotations: { tenant: 'acme' } });
    await host.control.pause(later.id, 'disk');
    await expect(host.control.resume(acme)).rejects.toMatchObject(gone);
    await host.control.resume(other);
    expect(await recall(host, other)).toBe(SECRET);
    await host.control.remove(acme);
  });

  it('a key that others can read, is altered or was sealed with another data.key is refused, with a remedy', async () => {
    await using host = await open();
    const id = await begin(host);
    await host.control.pause(id, 'disk');
    const path = join(keysOf(host), 'local');
    const refused = { code: 'store_failed', remedy: expect.stringContaining(path) };
    chmodSync(path, 0o644);
    await expect(host.control.resume(id)).rejects.toMatchObject(refused);
    chmodSync(path, 0o600);
    const whole = readFileSync(path);
    for (const text of ['', 'text', '{}', whole.toString().replace(/"sealed":"..../, '"sealed":"AAAA')]) {
      writeFileSync(path, text);
      await expect(host.control.resume(id)).rejects.toMatchObject(refused);
    }
    writeFileSync(path, whole);
    await host.control.resume(id);
    expect(await recall(host, id)).toBe(SECRET);
  });
});

it('plain and encrypted saves lie side by side, whatever is configured now', async () => {
  const dataDir = await temporaryDir();
  const kept: string[] = [];
  onTestFinished(() => rmSync(`${dataDir}.keys`, { recursive: true, force: true }));
  for (const encrypts of [false, true]) {
    await using host = await FakeHost.open({ dataDir, encrypts, mapsMemory: 'differences' });
    const id = await begin(host);
    await host.control.pause(id, 'disk');
    kept.push(id);
  }
  for (const encrypts of [false, true]) {
    await using host = await FakeHost.open({ dataDir, encrypts, mapsMemory: 'differences' });
    for (const id of kept) {
      await host.control.resume(id);
      expect(await recall(host, id)).toBe(SECRET);
      await host.control.pause(id, 'disk');
    }
    expect(leaks(dataDir).length > 0).toBe(!encrypts);
  }
});

it('a full disk while an encrypted pause is written: the sandbox continues, and nothing is left', async () => {
  await using host = await open({ mapsMemory: 'differences' });
  const id = await begin(host);
  host.script.fail('keep-sealed', Object.assign(new Error('write'), { code: 'ENOSPC' }));
  await expect(host.control.pause(id, 'disk')).rejects.toMatchObject({ code: 'disk_full' });
  expect(await recall(host, id)).toBe(SECRET);
  expect(filesOf(host)).toEqual([]);
  await host.control.remove(id);
  await requireNothing(host);
});

it('Firecracker, which keeps plain files of its VMs, is refused before anything is made', async () => {
  const dir = await temporaryDir();
  const runtime = { home: { dir }, driver: { name: 'firecracker' }, encrypts: true } as unknown as Runtime;
  await expect(openControlPlane(runtime, silentLog)).rejects.toMatchObject({
    code: 'encryption_unavailable',
    remedy: expect.stringContaining('NEUROVISOR_VMM=qemu'),
  });
  expect(existsSync(dir)).toBe(false);
});
