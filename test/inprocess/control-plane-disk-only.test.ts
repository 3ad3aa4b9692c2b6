/** Pauses, snapshots and resumes without memory: what is kept, what ends, and that nothing leaks. No VMs. */
import { readFile, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { FakeHost } from '../support/fake-host.ts';
import { NOTHING, NOTHING_STORED, requireNothing } from '../support/fake-leftovers.ts';
import { settle } from '../support/fake-members.ts';
import type { Phase } from '../support/fake-script.ts';
import { temporaryDir } from '../support/store.ts';

const diskOf = (host: FakeHost, id: string): string => host.vm(id).channelPath.replace(/v$/, 'overlay');
const readDisk = (host: FakeHost, id: string): Promise<string> => readFile(diskOf(host, id), 'utf8');

/** A sandbox with data in its memory and on its disk. */
async function begin(host: FakeHost, request: object = {}): Promise<string> {
  const { id } = await host.control.create({ boot: true, ...request });
  await (await host.guest(id)).remember('a thing');
  await writeFile(diskOf(host, id), 'a file');
  return id;
}

async function requireRebooted(host: FakeHost, id: string): Promise<void> {
  expect(await host.control.get(id)).toMatchObject({ status: 'running', pausedTo: null });
  expect(await (await host.guest(id)).recall()).toBe('');
  expect(await readDisk(host, id)).toBe('a file');
}

describe('a pause to disk only', () => {
  it('keeps identity and disk, and no memory; only a resume boots it again', async () => {
    await using host = await FakeHost.open();
    const { control } = host;
    const id = await begin(host, { env: { A: 'b' }, metadata: { of: 'a user' } });
    expect(await control.pause(id, 'disk-only')).toMatchObject({ pausedTo: 'disk-only' });
    expect(await host.holdings()).toEqual(NOTHING);
    expect(await host.stored()).toMatchObject({ files: 1, snapshots: 1 });
    for (const use of [() => control.guest(id), () => control.openPort(id, 80)]) {
      await expect(use()).rejects.toMatchObject({ code: 'not_ready', remedy: /resume/ });
    }
    const resumed = await control.resume(id);
    expect(resumed).toMatchObject({ id, metadata: { of: 'a user' }, timings: { origin: 'boot' } });
    expect(host.identities.at(-1)).toMatchObject({ sandboxId: id, env: { A: 'b' } });
    await requireRebooted(host, id);
    await expect.poll(() => host.stored()).toEqual(NOTHING_STORED);
    await requireNothing(host);
  });

  it('drops the memory of a sandbox that is paused in memory', async () => {
    await using host = await FakeHost.open();
    const id = await begin(host);
    await host.control.pause(id, 'memory');
    expect(await host.control.pause(id, 'disk-only')).toMatchObject({ pausedTo: 'disk-only' });
    await host.control.resume(id);
    await requireRebooted(host, id);
    await requireNothing(host);
  });

  it.each([['settle'], ['unplug'], ['pause'], ['keep-disk'], ['commit']] as readonly (readonly [Phase])[])(
    'that fails at %s: the sandbox continues, with its memory',
    async (phase) => {
      await using host = await FakeHost.open();
      const id = await begin(host);
      host.script.fail(phase);
      await expect(host.control.pause(id, 'disk-only')).rejects.toMatchObject({ code: 'snapshot_failed' });
      expect(await (await host.guest(id)).recall()).toBe('a thing');
      await expect.poll(() => host.stored()).toEqual(NOTHING_STORED);
      await requireNothing(host);
    },
  );

  it('a removal in the middle leaves nothing behind', async () => {
    await using host = await FakeHost.open();
    const id = await begin(host);
    const held = host.script.hold('keep-disk');
    const pausing = host.control.pause(id, 'disk-only').catch(() => undefined);
    await held.reached;
    const removing = host.control.remove(id);
    held.release();
    await Promise.all([pausing, removing]);
    expect(await host.control.get(id)).toMatchObject({ end: { cause: 'stopped' } });
    await requireNothing(host);
  });

  it('survives the end of the process, also by a kill; a kill in the middle leaves no file', async () => {
    const dataDir = await temporaryDir();
    let alive = true;
    const options = { dataDir, isOwnerAlive: async () => alive };
    const first = await FakeHost.open({ ...options, owner: 'first' });
    const id = await begin(first);
    const lost = await begin(first);
    await first.control.pause(id, 'disk-only');
    const held = first.script.hold('keep-disk');
    const pausing = first.control.pause(lost, 'disk-only').catch(() => undefined);
    await held.reached;
    await first.kill();
    alive = false;
    held.release();
    await pausing;
    await using host = await FakeHost.open({ ...options, owner: 'second' });
    expect(await host.control.list()).toMatchObject([{ id, pausedTo: 'disk-only' }]);
    expect(await host.control.get(lost)).toMatchObject({ end: { cause: 'host-lost' } });
    await expect(host.control.guest(id)).rejects.toMatchObject({ code: 'not_ready' });
    await host.control.resume(id);
    await requireRebooted(host, id);
    await requireNothing(host);
  });

  it('a boot that fails leaves it paused as it was', async () => {
    await using host = await FakeHost.open();
    const id = await begin(host);
    await host.control.pause(id, 'disk-only');
    for (const phase of ['copy-disk', 'start', 'hello'] as const) {
      host.script.fail(phase);
      await expect(host.control.resume(id)).rejects.toMatchObject({ code: 'start_failed' });
      expect(await host.control.get(id)).toMatchObject({ pausedTo: 'disk-only' });
      expect(await host.holdings()).toEqual(NOTHING);
    }
    await host.control.resume(id);
    await requireRebooted(host, id);
    await requireNothing(host);
  });

  it('at the timeout', async () => {
    await using host = await FakeHost.open();
    const id = await begin(host, { timeoutMs: 10_000, onTimeout: 'pause-disk-only' });
    const paused = host.became(id, 'paused');
    host.clock.advance(10_000);
    await paused;
    expect(await host.control.get(id)).toMatchObject({ pausedTo: 'disk-only' });
    await host.control.resume(id);
    await settle();
    await requireRebooted(host, id);
    await requireNothing(host);
  });

  it('forks and snapshots of it boot, too', async () => {
    await using host = await FakeHost.open();
    const { control } = host;
    const id = await begin(host);
    await control.pause(id, 'disk-only');
    const [fork] = await control.fork(id, { count: 1 });
    if (fork?.ok !== true) throw new Error('no fork');
    await requireRebooted(host, fork.sandbox.id);
    expect(await control.snapshot(id, { name: 'whole' })).toMatchObject({ diskOnly: true });
    const { id: made } = await control.create({ snapshot: 'whole' });
    await requireRebooted(host, made);
    expect(await control.get(id)).toMatchObject({ pausedTo: 'disk-only' });
    await requireNothing(host);
  });
});

describe('a resume with a reboot', () => {
  it.each(['memory', 'disk'] as const)('drops the memory of a sandbox that is paused to %s', async (to) => {
    await using host = await FakeHost.open();
    const id = await begin(host);
    await host.control.pause(id, to);
    await host.control.resume(id, { reboot: true });
    await requireRebooted(host, id);
    await expect.poll(() => host.stored()).toEqual(NOTHING_STORED);
    await requireNothing(host);
  });

  it('does nothing to a running sandbox', async () => {
    await using host = await FakeHost.open();
    const id = await begin(host);
    await host.control.resume(id, { reboot: true });
    expect(await (await host.guest(id)).recall()).toBe('a thing');
    await requireNothing(host);
  });

  it.each(['memory', 'disk'] as const)('that fails keeps the memory of a sandbox that is paused to %s', async (to) => {
    await using host = await FakeHost.open();
    const id = await begin(host);
    await host.control.pause(id, to);
    host.script.fail('hello');
    await expect(host.control.resume(id, { reboot: true })).rejects.toMatchObject({ code: 'start_failed' });
    expect(await host.control.get(id)).toMatchObject({ pausedTo: 'disk' });
    expect(await (await host.guest(id)).recall()).toBe('a thing');
    await requireNothing(host);
  });

  it('boots although a resume that was under way failed', async () => {
    await using host = await FakeHost.open();
    const id = await begin(host);
    await host.control.pause(id, 'disk');
    const held = host.script.hold('copy-disk');
    const resuming = host.control.resume(id);
    await held.reached;
    const rebooting = host.control.resume(id, { reboot: true });
    host.script.fail('hello');
    held.release();
    await expect(resuming).rejects.toMatchObject({ code: 'start_failed' });
    await rebooting;
    await requireRebooted(host, id);
    await requireNothing(host);
  });
});

describe('a snapshot of the disk only', () => {
  it('of a running or paused sandbox, which stays as it is; sandboxes boot from it', async () => {
    await using host = await FakeHost.open();
    const { control } = host;
    const id = await begin(host);
    for (const to of [null, 'memory', 'disk'] as const) {
      if (to !== null) await control.pause(id, to);
      const made = await control.snapshot(id, { diskOnly: true });
      expect(made).toMatchObject({ sandbox: id, diskOnly: true, current: true });
      expect(await control.get(id)).toMatchObject({ pausedTo: to });
      const { id: copy } = await control.create({ snapshot: made.id });
      await requireRebooted(host, copy);
      await control.remove(copy);
      await control.resume(id);
      expect(await (await host.guest(id)).recall()).toBe('a thing');
    }
    const whole = await control.snapshot(id);
    expect(whole.diskOnly).toBe(false);
    const listed = (await control.snapshots()).map(({ diskOnly }) => diskOnly);
    expect(listed).toEqual([false, true, true, true]);
    await requireNothing(host);
  });
});
