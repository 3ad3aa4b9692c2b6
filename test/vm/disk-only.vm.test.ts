/** Sandboxes that are paused, saved and resumed without their memory: a guest boots from the disk that another left. */
import { afterAll, expect, it } from 'vitest';
import { sleep } from '../../src/base/clock.ts';
import type { Guest } from '../../src/machine/guest/link.ts';
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
