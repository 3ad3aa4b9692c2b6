/** What encrypted pauses, snapshots and forks of real VMs leave on the disk, beside the same in plain. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { silentLog } from '../../src/base/log.ts';
import { openControlPlane } from '../../src/host/runtime/control.ts';
import type { LocalControlPlane } from '../../src/sandbox/plane/control-plane.ts';
import { startMockUpstream } from '../support/mock-upstream.ts';
import { exec, SMALL, useControlPlane } from '../support/vm.ts';

const upstream = await startMockUpstream();
const fixture = useControlPlane(() => upstream.target.baseUrl ?? '');
afterAll(() => upstream.close());

/** Never whole in this process's requests to the guest, nor in the programs there. */
const PARTS = ['a thought of', 'the guest', '8d1f6c'] as const;
const IN_MEMORY = PARTS.join('-');
const ON_DISK = PARTS.join('+');
const HOLD = `python3 -c 'import time; kept = "-".join(${JSON.stringify(PARTS)}) * 9; print(1, flush=True); time.sleep(9e5)'`;
const WRITE = `python3 -c 'open("file", "w").write("+".join(${JSON.stringify(PARTS)}))' && sync`;

/** Which of the texts the files of a directory have. */
async function found(dir: string): Promise<string[]> {
  const texts = new Set<string>();
  for (const name of await readdir(dir, { recursive: true })) {
    const path = join(dir, name);
    if (!(await stat(path)).isFile()) continue;
    const bytes = await readFile(path);
    for (const text of [IN_MEMORY, ON_DISK]) if (bytes.includes(text)) texts.add(text);
  }
  return [...texts].sort();
}

async function begin(control: LocalControlPlane): Promise<string> {
  const { id } = await control.create(SMALL);
  const guest = await control.guest(id);
  await guest.exec({ argv: ['sh', '-c', `${HOLD} > ready`], stdin: false, detached: true });
  expect((await exec(guest, ['sh', '-c', WRITE])).exitCode).toBe(0);
  await expect.poll(async () => (await exec(guest, ['cat', 'ready'])).stdout, { timeout: 30_000 }).toBe('1\n');
  return id;
}

/** The program still runs, and the file is there. */
async function requireWhole(control: LocalControlPlane, id: string): Promise<void> {
  const look = 'cat file; grep -lsz "time[.]slee[p]" /proc/[0-9]*/cmdline | wc -l';
  const { stdout } = await exec(await control.guest(id), ['sh', '-c', look]);
  expect(stdout.startsWith(ON_DISK)).toBe(true);
  expect(Number(stdout.slice(ON_DISK.length))).toBeGreaterThan(0);
}

it.each([false, true])('encrypted: %s: texts of the guest’s memory and disk in the store’s files', async (encrypts) => {
  const dataDir = join(fixture.runtime.home.dir, `data-${encrypts}`);
  await using opened = await openControlPlane(fixture.runtime, silentLog, { dataDir, encrypts, basesKeptMs: 0 });
  const { control } = opened;
  const expected = encrypts ? [] : [IN_MEMORY, ON_DISK].sort();
  const id = await begin(control);
  await control.snapshot(id, { name: 'mine' });
  expect(await found(dataDir)).toEqual(expected);
  await control.pause(id, 'disk');
  await control.removeSnapshot('mine');
  expect(await found(dataDir)).toEqual(expected);
  await control.resume(id);
  await requireWhole(control, id);

  const [fork] = await control.fork(id, { count: 1 });
  if (fork?.ok !== true) throw new Error(fork?.message);
  await requireWhole(control, fork.sandbox.id);
  await control.pause(fork.sandbox.id, 'disk');
  // All of its RAM, where a clone of a template has a difference.
  expect(await found(dataDir)).toEqual(expected);
  await control.resume(fork.sandbox.id);
  await requireWhole(control, fork.sandbox.id);
  for (const one of [id, fork.sandbox.id]) await control.remove(one);
  expect(await found(dataDir)).toEqual([]);
});

it('an encrypted snapshot: each sandbox from it has what it had, and its own pauses are encrypted', async () => {
  const dataDir = join(fixture.runtime.home.dir, 'data-more');
  await using opened = await openControlPlane(fixture.runtime, silentLog, { dataDir, encrypts: true, basesKeptMs: 0 });
  const { control } = opened;
  const id = await begin(control);
  await control.snapshot(id, { name: 'mine' });
  await control.remove(id);
  for (const diskOnly of [false, true]) {
    const { id: own } = await control.create({ snapshot: 'mine' });
    await requireWhole(control, own);
    await control.pause(own, diskOnly ? 'disk-only' : 'disk');
    expect(await found(dataDir)).toEqual([]);
    await control.resume(own);
    expect((await (await control.guest(own)).files.readAll('file')).toString()).toBe(ON_DISK);
    await control.remove(own);
  }
});
