/** Sandboxes that are paused, saved and resumed without their memory: a guest boots from the disk that another left. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterAll, expect, it, onTestFinished } from 'vitest';
import { connectDaemon, type RemoteControlPlane } from '../../src/api/client/client.ts';
import { createApiServer } from '../../src/api/rest/server.ts';
import { copyOut } from '../../src/artifacts/transfer/copy-out.ts';
import { sleep, systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { openControlPlane } from '../../src/host/runtime/control.ts';
import type { Guest } from '../../src/machine/guest/link.ts';
import { connectGuest } from '../../src/machine/guest/remote.ts';
import type { ControlPlane } from '../../src/sandbox/contract/control.ts';
import { homeParts } from '../support/home-parts.ts';
import { startMockUpstream } from '../support/mock-upstream.ts';
import { exec, SMALL, useControlPlane } from '../support/vm.ts';

const upstream = await startMockUpstream();
const fixture = useControlPlane(() => upstream.target.baseUrl ?? '');
afterAll(() => upstream.close());

/** The boot, and how many programs of the marker run. */
async function observe(guest: Guest): Promise<{ bootId: string; programs: string }> {
  const { stdout } = await exec(guest, [
    'sh',
    '-c',
    'cat /proc/sys/kernel/random/boot_id; grep -lsz "^31556926$" /proc/[0-9]*/cmdline | wc -l',
  ]);
  const [bootId = '', programs = ''] = stdout.trim().split('\n');
  return { bootId, programs };
}

/** Never synced by the guest itself: many small files, and one that a program writes without an end. */
const WRITE = `
mkdir -p many && for i in $(seq 200); do echo "$i" > many/$i; done
head -c 3000000 /dev/urandom > large && sha256sum large > sum
(while :; do echo line >> endless; done) &
sleep 31556926 & echo started`;
const CHECK = 'sha256sum -c sum >&2 && cat many/* | sort -n | tail -n 1 && ls many | wc -l';

it('disk only: files written just before survive a pause, a snapshot and a reboot; programs do not', async () => {
  const { control } = fixture;
  const { id } = await control.create({ ...SMALL, env: { OWN: 'mine' }, metadata: { user: '7' } });
  const guest = await control.guest(id);
  const started = await guest.exec({ argv: ['sh', '-c', WRITE], stdin: false, detached: true });
  await expect.poll(async () => (await observe(guest)).programs, { timeout: 30_000 }).toBe('1');
  expect(started.pid).toBeGreaterThan(0);
  const first = await observe(guest);
  expect((await exec(guest, ['sh', '-c', CHECK])).stdout).toBe('200\n200\n');

  // From the request on, no file operation changes the disk, be it old or new; those end with the save.
  async function* endless(): AsyncGenerator<Buffer> {
    for (;;) {
      yield Buffer.alloc(1000);
      await sleep(20);
    }
  }
  const uploading = guest.files.write('upload', endless()).then(
    () => 'written',
    (error: unknown) => error,
  );
  const PART = 'stat -c %s .upload.*.part';
  await expect.poll(async () => (await exec(guest, ['sh', '-c', PART])).stdout, { timeout: 30_000 }).not.toBe('');
  await guest.files.write('last', 'written just before');
  await guest.settle({ freeze: true, mustFreeze: true });
  const making = guest.files.makeDirectory('made').then(
    () => 'made',
    (error: unknown) => error,
  );
  expect(await Promise.race([making, sleep(1500)])).toBeUndefined();
  const snapshot = await control.snapshot(id, { name: 'files', diskOnly: true });
  expect(snapshot).toMatchObject({ diskOnly: true, current: true });
  expect(await uploading).toMatchObject({ code: 'suspended' });
  expect(await making).toMatchObject({ code: 'suspended' });
  // The sandbox continues, with its program.
  expect(await observe(await control.guest(id))).toEqual(first);

  await (await control.guest(id)).files.write('last', 'written even later');
  expect(await control.pause(id, 'disk-only')).toMatchObject({ pausedTo: 'disk-only' });
  await expect(control.guest(id)).rejects.toMatchObject({ code: 'not_ready' });
  expect(await control.resume(id)).toMatchObject({ id, status: 'running', metadata: { user: '7' } });
  const again = await control.guest(id);
  const second = await observe(again);
  expect(second.bootId).not.toBe(first.bootId);
  expect(second.programs).toBe('0');
  expect((await exec(again, ['sh', '-c', CHECK])).stdout).toBe('200\n200\n');
  expect((await again.files.readAll('last')).toString()).toBe('written even later');
  const env = await exec(again, ['sh', '-c', 'echo $OWN $NEUROVISOR_SANDBOX_ID']);
  expect(env.stdout).toBe(`mine ${id}\n`);

  // The file system takes writes, is saved with its memory, and boots without it.
  await exec(again, ['sh', '-c', 'rm -r many && mkdir more && touch more/a more/b']);
  await control.pause(id, 'disk');
  await control.resume(id, { reboot: true });
  const rebooted = await control.guest(id);
  expect((await observe(rebooted)).bootId).not.toBe(second.bootId);
  expect((await exec(rebooted, ['sh', '-c', 'ls . more'])).stdout).not.toContain('many');

  const copy = await control.create({ snapshot: 'files' });
  expect(copy).toMatchObject({ origin: 'snapshot', snapshot: snapshot.id });
  const other = await control.guest(copy.id);
  expect((await other.files.readAll('last')).toString()).toBe('written just before');
  expect((await exec(other, ['sh', '-c', CHECK])).stdout).toBe('200\n200\n');
  await expect(other.files.stat('made')).rejects.toMatchObject({ code: 'not_found' });
  expect((await observe(other)).programs).toBe('0');
  expect((await exec(other, ['sh', '-c', 'echo $OWN'])).stdout).toBe('\n');
});

/** Path of each file that the store has → its SHA-256. */
async function digests(): Promise<Readonly<Record<string, string>>> {
  const dir = join(fixture.dataDir, 'files');
  const found: Record<string, string> = {};
  for (const name of (await readdir(dir, { recursive: true })).sort()) {
    const path = join(dir, name);
    if ((await stat(path)).isFile())
      found[name] = createHash('sha256')
        .update(await readFile(path))
        .digest('hex');
  }
  return found;
}

/** A client of a server at a socket in `dir`. */
async function overRest(control: ControlPlane, dir: string): Promise<RemoteControlPlane> {
  const parts = { ...homeParts(dir), control, log: silentLog, clock: systemClock, apiKey: 'unused' };
  const server = await createApiServer(parts);
  onTestFinished(() => server.close());
  const socketPath = join(dir, 'api.sock');
  await server.listen({ socketPath });
  return await connectDaemon({ socketPath });
}

it('a pause of another version: its files can be copied out, it stays as it is, and its own version resumes it', async () => {
  const { control, dataDir, runtime } = fixture;
  const { id } = await control.create({ ...SMALL, env: { OWN: 'mine' } });
  const guest = await control.guest(id);
  await exec(guest, ['sh', '-c', 'mkdir -p out/sub && echo one > out/a && head -c 2000000 /dev/urandom > out/sub/b']);
  const sum = (await exec(guest, ['sh', '-c', 'cd out && sha256sum a sub/b'])).stdout;
  const started = await guest.exec({ argv: ['sleep', '31556926'], stdin: false, detached: true });
  await control.pause(id, 'disk');
  const before = await digests();
  const db = new DatabaseSync(join(dataDir, 'store.db'));
  const columns = 'machine, kernelDigest, rootImageDigest, madeBy';
  const made = db.prepare(`SELECT ${columns} FROM snapshots WHERE sandboxId = ?`).get(id) ?? {};
  const set = db.prepare(`UPDATE snapshots SET (${columns}) = (?, ?, ?, ?) WHERE sandboxId = ?`);
  set.run('QEMU 1', 'of another kernel', 'of another image', '0.1.0 (01234567)', id);
  const running = (await readdir(runtime.home.runDir)).length;
  const target = await mkdtemp(join(tmpdir(), 'nv-rescued-'));
  {
    await using other = await openControlPlane(runtime, silentLog, { basesKeptMs: 0 });
    expect(await other.control.get(id)).toMatchObject({ status: 'paused', foreignPause: '0.1.0 (01234567)' });
    await using remote = await overRest(other.control, target);
    await expect(remote.guest(id)).rejects.toMatchObject({ code: 'snapshot_foreign' });
    const reader = await remote.reader(id);
    await copyOut(reader, 'out', `${target}/`);
    expect((await reader.files.readAll('/proc/net/dev')).toString().match(/^ *\w+:/gm)).toEqual(['    lo:']);
    // A client of the protocol that did not ask what it may do.
    const dial = (signal?: AbortSignal) => remote.openOperation(id, signal);
    const client = connectGuest({ dial, info: reader.info, clock: systemClock });
    expect((await client.files.readAll('out/a')).toString()).toBe('one\n');
    const refused = { code: 'permission_denied', message: expect.stringContaining('can only be read') };
    await expect(client.files.write('out/a', 'two')).rejects.toMatchObject(refused);
    await expect(client.exec({ argv: ['true'] })).rejects.toMatchObject(refused);
    expect(await other.control.get(id)).toMatchObject({ status: 'paused', foreignPause: '0.1.0 (01234567)' });
    await expect.poll(async () => (await readdir(runtime.home.runDir)).length, { timeout: 60_000 }).toBe(running);
    // Ended with the host.
    await other.control.reader(id);
  }
  expect((await readdir(runtime.home.runDir)).length).toBe(running);
  expect(await digests()).toEqual(before);
  const copied = execFileSync('sha256sum', ['a', 'sub/b'], { cwd: join(target, 'out'), encoding: 'utf8' });
  expect(copied).toBe(sum);
  await rm(target, { recursive: true });
  set.run(...Object.values(made), id);
  db.close();
  await control.resume(id);
  const again = await control.guest(id);
  expect((await again.processes()).map(({ pid }) => pid)).toContain(started.pid);
  expect((await exec(again, ['sh', '-c', 'cd out && sha256sum a sub/b'])).stdout).toBe(sum);
});
