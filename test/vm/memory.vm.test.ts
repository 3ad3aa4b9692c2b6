/**
 * Memory pressure in real guests: the warning before the kernel kills, the victim, and the action taken
 * about it (docs/observability.md).
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { MEMORY_FD } from '../../src/machine/vmm/qemu/args.ts';
import type { SandboxInfo } from '../../src/sandbox/contract/control.ts';
import type { TimedEvent } from '../../src/sandbox/contract/events.ts';
import { type MockUpstream, startMockUpstream } from '../support/mock-upstream.ts';
import { exec, python, SMALL, useControlPlane, vmmOf } from '../support/vm.ts';

const upstream: MockUpstream = await startMockUpstream();
const fixture = useControlPlane(() => upstream.target.baseUrl ?? '');
afterAll(() => upstream.close());
afterEach(async () => {
  const { control } = fixture;
  for (const { id } of await control.list()) await control.remove(id);
  for (const { id } of await control.snapshots()) await control.removeSnapshot(id);
});

/** Takes memory as fast as it can until it is killed. */
const BALLOON = 'kept = []\nwhile True: kept.append(bytearray(1 << 20))';

/** Pages that a VMM does not share, MiB. */
function ownMib(vmm: number): number {
  const rollup = readFileSync(`/proc/${vmm}/smaps_rollup`, 'latin1');
  return Number(/^Anonymous: +(\d+) kB$/m.exec(rollup)?.[1]) / 1024;
}

/** What clones share, as this VMM has inherited it. */
function digestOfRam(vmm: number): string {
  const ram = readFileSync(`/proc/${vmm}/fd/${MEMORY_FD}`);
  return createHash('sha256').update(ram).digest('hex');
}

async function create(request: object = {}): Promise<SandboxInfo> {
  return await fixture.control.create({ ...SMALL, ...request });
}

/** Notes all events of one until it ends. */
function follow(id: string): { readonly seen: TimedEvent[]; readonly stop: () => void } {
  const seen: TimedEvent[] = [];
  const aborter = new AbortController();
  void (async () => {
    for await (const event of fixture.control.events(id, { signal: aborter.signal })) {
      seen.push(event);
    }
  })();
  return { seen, stop: () => aborter.abort() };
}

describe('a program that takes all memory', () => {
  it('near_oom precedes the OOM kill; exit and event name the victim; the sandbox continues', async () => {
    const { control } = fixture;
    const { id } = await create();
    const { seen, stop } = follow(id);
    const guest = await control.guest(id);
    const outcome = await python(guest, BALLOON);
    expect(outcome).toMatchObject({ exitCode: null, signal: 'SIGKILL', oomKilled: true });
    const { oomVictim } = outcome;
    expect(oomVictim).toMatchObject({ name: expect.stringMatching(/python/) });
    // Nearly all that user code may have: 192 MiB less what the agent and the kernel need.
    expect(oomVictim?.rssBytes).toBeGreaterThan(80 * 2 ** 20);
    await expect.poll(() => seen.map(({ type }) => type)).toContain('oom');
    stop();
    const near = seen.find(({ type }) => type === 'near_oom');
    const oom = seen.find(({ type }) => type === 'oom');
    expect(near).toMatchObject({ source: 'guest' });
    expect(oom).toMatchObject({ source: 'guest', victim: oomVictim });
    expect(near?.seq).toBeLessThan(oom?.seq ?? 0);
    expect(seen).toContainEqual(expect.objectContaining({ type: 'pressure', source: 'guest' }));
    expect(seen).toContainEqual(expect.objectContaining({ type: 'action', action: 'warn' }));
    expect((await exec(guest, ['echo', 'alive'])).stdout).toBe('alive\n');
  });

  it('an OOM kill of a child is attributed to the program that started it, and to no other', async () => {
    const guest = await fixture.control.guest((await create()).id);
    const code = JSON.stringify(BALLOON);
    const [shell, other] = await Promise.all([
      exec(guest, ['sh', '-c', `python3 -c ${code.replaceAll('\\n', '\n')}; exit 7`]),
      exec(guest, ['sh', '-c', 'sleep 60 & echo $! > pid; wait; exit 0']),
      (async () => {
        await expect.poll(async () => (await guest.stats()).oomKills, { timeout: 200_000 }).toBeGreaterThan(0);
        await exec(guest, ['sh', '-c', 'kill -9 $(cat pid)']);
      })(),
    ]);
    expect(shell).toMatchObject({ exitCode: 7, oomKilled: false });
    expect(shell.oomVictim).toMatchObject({ name: expect.stringMatching(/python/) });
    expect(other).toMatchObject({ exitCode: 0, oomKilled: false, oomVictim: null });
  });
});

describe('onMemoryPressure', () => {
  it('pause: the processors stop before any OOM kill', async () => {
    const { control } = fixture;
    const { id } = await create({ onMemoryPressure: 'pause', autoResume: false });
    const { seen, stop } = follow(id);
    const guest = await control.guest(id);
    const process = await guest.python({ script: { code: BALLOON }, stdin: false });
    process.exit.catch(() => undefined);
    await expect.poll(async () => (await control.get(id)).status, { timeout: 200_000 }).toBe('paused');
    await expect.poll(() => seen.map(({ type }) => type)).toContain('action');
    stop();
    expect(seen.map(({ type }) => type)).not.toContain('oom');
    expect(seen.find(({ type }) => type === 'action')).toMatchObject({ action: 'pause', ok: true });
  });

  it('snapshot: a new sandbox continues from the state before the OOM kill', async () => {
    const { control } = fixture;
    const { id } = await create({ onMemoryPressure: 'snapshot' });
    const { seen, stop } = follow(id);
    const guest = await control.guest(id);
    await exec(guest, ['sh', '-c', 'echo before > mark']);
    await guest.python({ script: { code: BALLOON }, stdin: false, detached: true });
    await expect
      .poll(() => seen.find(({ type }) => type === 'action'), { timeout: 200_000 })
      .toMatchObject({ action: 'snapshot', ok: true, detail: `near-oom-${id}-1` });
    expect(
      seen.slice(
        0,
        seen.findIndex(({ type }) => type === 'action'),
      ),
    ).not.toContainEqual(expect.objectContaining({ type: 'oom' }));
    stop();
    const again = await control.create({ snapshot: `near-oom-${id}-1` });
    const there = await control.guest(again.id);
    // The program is in it as well, alive.
    const programs = await there.processes();
    expect(programs).toContainEqual(expect.objectContaining({ kind: 'python' }));
    for (const { pid } of programs) await there.signal(pid, 'SIGKILL');
    expect((await exec(there, ['cat', 'mark'])).stdout).toBe('before\n');
  });
});

describe('memoryMaxMib', () => {
  /** Python that compares whole MiB: in emulation, a look at each byte takes half a minute. */
  const isAll = (bytes: string, byte: string): string =>
    `(lambda all_, mib: all(all_[at:at + len(mib)] == mib for at in range(0, len(all_), len(mib))))(${bytes}, ${byte} * (1 << 20))`;

  it('a clone that shares its memory returns it to the host, and its template stays unchanged', async () => {
    const { control, runtime } = fixture;
    const size = { memoryMib: 192, memoryMaxMib: 512 };
    await runtime.templates.prepare({ ...SMALL, ...size });
    const { id, ...info } = await create(size);
    expect(info).toMatchObject({ origin: 'clone', sharesMemory: true });
    const vmm = await vmmOf(fixture, id);
    const before = digestOfRam(vmm);
    const guest = await control.guest(id);
    const born = ownMib(vmm);
    await control.update(id, { memoryMib: 512 });
    expect(await python(guest, 'print(len(bytearray(b"x") * (250 << 20)))')).toMatchObject({
      stdout: `${250 * 2 ** 20}\n`,
    });
    const grown = ownMib(vmm);
    expect(grown - born).toBeGreaterThan(200);
    await control.update(id, { memoryMib: 192 });
    // It had 192 MiB before, all of which may be its own now.
    expect(grown - ownMib(vmm)).toBeGreaterThan(150);
    expect(digestOfRam(vmm)).toBe(before);
    // A page that comes back is the template's again. Programs get zeros nevertheless, which the guest's kernel does not write at each allocation.
    await control.update(id, { memoryMib: 512 });
    expect((await python(guest, `print(${isAll('bytearray(300 << 20)', 'b"\\0"')})`)).stdout).toBe('True\n');

    // What another one has changed goes with it: into a pause, and into its fork. Both grow afterwards.
    const other = await create(size);
    await python(await control.guest(other.id), 'open("kept", "w").write("here")');
    await control.pause(other.id, 'disk');
    await control.resume(other.id);
    const [fork] = await control.fork(other.id, { count: 1 });
    if (fork?.ok !== true) throw new Error(JSON.stringify(fork));
    for (const each of [other.id, fork.sandbox.id]) {
      expect(await control.get(each)).toMatchObject({ memoryMib: 192, sharesMemory: true });
      const vmm = await vmmOf(fixture, each);
      await control.update(each, { memoryMib: 400 });
      const code = `print(open("kept").read(), ${isAll('bytearray(b"x") * (100 << 20)', 'b"x"')})`;
      expect((await python(await control.guest(each), code)).stdout).toBe('here True\n');
      const much = ownMib(vmm);
      await control.update(each, { memoryMib: 192 });
      expect(much - ownMib(vmm)).toBeGreaterThan(50);
      expect(digestOfRam(vmm)).toBe(before);
    }
  });

  /**
   * More than the sandbox begins with, less than it may have. It waits where its kernel slows it down: on a host that
   * is busy with other things a step may take as long as the kernel takes to a kill.
   */
  const NEEDS_600 = [
    'import time',
    'kept = []',
    'for n in range(600):',
    '    began = time.monotonic()',
    '    kept.append(bytearray(1 << 20))',
    '    if time.monotonic() - began > 0.1: time.sleep(2)',
    'print(len(kept))',
  ].join('\n');
  const MEMORY = { memoryMib: 256, boot: true } as const;

  it('a program that exceeds the memory is killed, and survives if memory can grow', async () => {
    const { control } = fixture;
    const fixed = await create(MEMORY);
    const killed = await python(await control.guest(fixed.id), NEEDS_600);
    expect(killed).toMatchObject({ oomKilled: true, stdout: '' });
    await control.remove(fixed.id);

    const { id, ...info } = await create({ ...MEMORY, memoryMaxMib: 1024 });
    expect(info).toMatchObject({ memoryMib: 256, memoryMaxMib: 1024 });
    const guest = await control.guest(id);
    expect((await guest.stats()).memoryTotalBytes).toBeLessThan(256 * 2 ** 20);
    const { seen, stop } = follow(id);
    expect(await python(guest, NEEDS_600)).toMatchObject({ exitCode: 0, stdout: '600\n' });
    expect((await control.get(id)).memoryMib).toBeGreaterThan(600);
    const first = { type: 'resized', by: 'pressure', fromMib: 256, toMib: 384 };
    await expect.poll(() => seen).toContainEqual(expect.objectContaining(first));
    stop();
    expect(seen.map(({ type }) => type)).not.toContain('oom');
    // Back, and its pages with it; then its fork has as much.
    await control.update(id, { memoryMib: 256 });
    expect((await guest.stats()).memoryTotalBytes).toBeLessThan(256 * 2 ** 20);
    await control.update(id, { memoryMib: 320 });
    const [fork] = await control.fork(id, { count: 1 });
    if (fork?.ok !== true) throw new Error(JSON.stringify(fork));
    expect(fork.sandbox).toMatchObject({ memoryMib: 320, memoryMaxMib: 1024 });
    const { memoryTotalBytes } = await (await control.guest(fork.sandbox.id)).stats();
    expect(memoryTotalBytes).toBeLessThan(320 * 2 ** 20);
    expect(memoryTotalBytes).toBeGreaterThan(256 * 2 ** 20);
  });
});
