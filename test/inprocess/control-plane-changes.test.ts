/** Concurrent changes of one sandbox: the second waits, joins, or is refused with a reason. No VMs. */
import { describe, expect, it } from 'vitest';
import type { SandboxStatus } from '../../src/sandbox/contract/control.ts';
import { FakeHost } from '../support/fake-host.ts';
import { NOTHING, requireNothing } from '../support/fake-leftovers.ts';
import { settle } from '../support/fake-members.ts';
import type { Phase } from '../support/fake-script.ts';

type Change = 'pause' | 'pause-memory' | 'snapshot' | 'fork' | 'resume' | 'resume-memory';

async function begin(host: FakeHost, change: Change): Promise<{ id: string; go: () => Promise<unknown> }> {
  const { control } = host;
  const { id } = await control.create({ boot: true });
  if (change === 'resume') await control.pause(id, 'disk');
  if (change === 'resume-memory') await control.pause(id, 'memory');
  const go = {
    pause: () => control.pause(id, 'disk'),
    'pause-memory': () => control.pause(id, 'memory'),
    snapshot: () => control.snapshot(id),
    fork: () => control.fork(id, { count: 2 }),
    resume: () => control.resume(id),
    'resume-memory': () => control.resume(id),
  }[change];
  return { id, go };
}

/** The statuses of the sandbox in order, without repeats. */
function history(host: FakeHost, id: string): SandboxStatus[] {
  const seen: SandboxStatus[] = [];
  host.control.onChange((info) => {
    if (info.id === id) seen.push(info.status);
  });
  return seen;
}

const SAVED: readonly Phase[] = ['settle', 'unplug', 'save-state', 'keep-memory', 'keep-disk'];
const STARTED: readonly Phase[] = ['workspace', 'listen', 'bridge', 'copy-disk', 'start', 'hello'];
const MOMENTS: readonly (readonly [Change, Phase])[] = [
  ...[...SAVED, 'commit' as const, 'kill' as const].map((phase) => ['pause', phase] as const),
  ...[...SAVED, 'resume' as const, 'plug' as const, 'hello' as const, 'commit' as const].map(
    (phase) => ['snapshot', phase] as const,
  ),
  ...[...SAVED, ...STARTED].map((phase) => ['fork', phase] as const),
  ...[...STARTED, 'put' as const].map((phase) => ['resume', phase] as const),
  ...(['resume', 'update'] as const).map((phase) => ['resume-memory', phase] as const),
  ['pause-memory', 'pause'],
];

describe('LocalControlPlane: remove', () => {
  it.each(MOMENTS)('during a %s, at %s: one end, and nothing is left behind', async (change, at) => {
    await using host = await FakeHost.open();
    const { id, go } = await begin(host, change);
    const held = host.script.hold(at);
    const going = go().catch((error: unknown) => error);
    await held.reached;
    const seen = history(host, id);
    const removing = Promise.all([host.control.remove(id), host.control.remove(id)]);
    await settle();
    held.release();
    const removed = await removing;
    for (const info of removed) expect(info).toMatchObject({ status: 'ended', pausedTo: null });
    await going;
    expect(seen.filter((status) => status === 'ended')).toHaveLength(1);
    expect(await host.control.get(id)).toMatchObject({ status: 'ended', endsAtMs: null });
    expect(await host.store.sandboxes.get(id)).toMatchObject({ status: 'ended', ownerJson: null });
    await expect(host.control.remove(id)).rejects.toMatchObject({ code: 'gone' });
    await requireNothing(host);
  });

  it('during a resume: does not wait for a guest that hangs', async () => {
    await using host = await FakeHost.open();
    const { id, go } = await begin(host, 'resume');
    const held = host.script.hold('hello');
    const refused = expect(go()).rejects.toMatchObject({ code: 'gone' });
    await held.reached;
    expect(await host.control.remove(id)).toMatchObject({ status: 'ended' });
    await refused;
    held.release();
    await requireNothing(host);
  });

  it('during a resume that succeeds at that very moment: ends the new VM', async () => {
    await using host = await FakeHost.open();
    for (let moments = 0; moments < 40; moments++) {
      const { id, go } = await begin(host, 'resume');
      const held = host.script.hold('hello');
      const going = go().catch((error: unknown) => error);
      await held.reached;
      held.release();
      for (let moment = 0; moment < moments; moment++) await Promise.resolve();
      expect(await host.control.remove(id)).toMatchObject({ status: 'ended' });
      await going;
      expect(await host.holdings()).toEqual(NOTHING);
    }
    await requireNothing(host);
  });

  it.each(['disk', 'memory'] as const)('of a sandbox paused to %s: nothing is left behind', async (to) => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true });
    await host.control.pause(id, to);
    expect(await host.control.remove(id)).toMatchObject({ end: { cause: 'stopped' } });
    await requireNothing(host);
  });

  it('while a dead VM is cleaned up: its cause stays', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true });
    const held = host.script.hold('kill');
    host.vm(id).die();
    await held.reached;
    const removing = host.control.remove(id);
    held.release();
    expect(await removing).toMatchObject({ status: 'ended', end: { cause: 'vmm-crashed' } });
    await requireNothing(host);
  });
});

describe('LocalControlPlane: close during a change', () => {
  it.each(MOMENTS)('%s, at %s: only suspended sandboxes are left', async (change, at) => {
    await using host = await FakeHost.open();
    const { id, go } = await begin(host, change);
    const held = host.script.hold(at);
    const going = go().catch((error: unknown) => error);
    await held.reached;
    const closing = host.control.close();
    await settle();
    held.release();
    await closing;
    await going;
    expect(await host.holdings()).toEqual(NOTHING);
    const row = await host.store.sandboxes.get(id);
    const isOnDisk = row.status === 'paused';
    expect(row.status).toBe(isOnDisk ? 'paused' : 'ended');
    expect(row).toMatchObject({ ownerJson: null });
    expect(row.pausedSnapshotId !== null).toBe(isOnDisk);
    if (change === 'pause') expect(row.status).toBe('paused');
  });
});

describe('LocalControlPlane: resume', () => {
  it.each(['disk', 'memory'] as const)('ten at once from %s are one resume', async (to) => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true });
    await host.control.pause(id, to);
    const before = host.started;
    const seen = history(host, id);
    const all = await Promise.all(Array.from({ length: 10 }, () => host.control.resume(id)));
    for (const info of all) expect(info.status).toBe('running');
    expect(seen).toEqual(['resuming', 'running']);
    expect(host.started - before).toBe(to === 'disk' ? 1 : 0);
    await requireNothing(host);
  });

  it('of a running sandbox does nothing', async () => {
    await using host = await FakeHost.open();
    const { id, endsAtMs } = await host.control.create({ boot: true, timeoutMs: 60_000 });
    host.clock.advance(1000);
    const seen = history(host, id);
    expect(await host.control.resume(id)).toMatchObject({ status: 'running', endsAtMs });
    expect(seen).toEqual([]);
    await requireNothing(host);
  });

  it('a canceled call does not cancel another one', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true });
    await host.control.pause(id, 'disk');
    const held = host.script.hold('hello');
    const aborter = new AbortController();
    const mine = expect(host.control.resume(id, { signal: aborter.signal })).rejects.toMatchObject({
      code: 'cancelled',
    });
    const others = host.control.resume(id);
    await held.reached;
    aborter.abort();
    await mine;
    expect(await others).toMatchObject({ status: 'running' });
    held.release();
    await requireNothing(host);
  });

  it('during a pause runs after it', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true });
    const held = host.script.hold('keep-disk');
    const pausing = host.control.pause(id, 'disk');
    await held.reached;
    const resuming = host.control.resume(id);
    const using = host.guest(id);
    held.release();
    await pausing;
    expect(await resuming).toMatchObject({ status: 'running' });
    await (await using).remember('it is used');
    await requireNothing(host);
  });
});

describe('LocalControlPlane: pause', () => {
  it('of a paused sandbox is refused, except from memory to disk', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true });
    const { control } = host;
    await control.pause(id, 'memory');
    await expect(control.pause(id, 'memory')).rejects.toMatchObject({ code: 'not_ready' });
    expect(await control.pause(id, 'disk')).toMatchObject({ pausedTo: 'disk' });
    for (const to of ['memory', 'disk'] as const) {
      await expect(control.pause(id, to)).rejects.toMatchObject({ code: 'not_ready' });
    }
    await control.remove(id);
    await expect(control.pause(id, 'disk')).rejects.toMatchObject({ code: 'gone' });
    await expect(control.resume(id)).rejects.toMatchObject({ code: 'gone' });
    await requireNothing(host);
  });

  it('two at once: one pauses, the other is refused', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true });
    const both = await Promise.allSettled([host.control.pause(id, 'disk'), host.control.pause(id, 'disk')]);
    expect(both.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    await requireNothing(host);
  });

  it('an operation resumes it only with autoResume', async () => {
    await using host = await FakeHost.open();
    const { control } = host;
    const { id } = await control.create({ boot: true, autoResume: false });
    await control.pause(id, 'disk');
    for (const use of [
      () => control.guest(id),
      () => control.openOperation(id),
      () => control.channelStats(id),
      () => control.update(id, { channelLimits: {} }),
    ]) {
      await expect(use()).rejects.toMatchObject({ code: 'not_ready' });
    }
    expect(await control.update(id, { autoResume: true })).toMatchObject({ status: 'paused' });
    await Promise.all([control.guest(id), control.channelStats(id)]);
    expect(await control.get(id)).toMatchObject({ status: 'running' });
    await requireNothing(host);
  });
});

describe('LocalControlPlane: rows', () => {
  it('a sandbox whose row can not be written runs, and resumes where it was', async () => {
    await using host = await FakeHost.open();
    host.script.fail('put');
    const { id } = await host.control.create({ boot: true });
    await (await host.guest(id)).remember('a thing');
    await host.control.pause(id, 'disk');
    host.script.fail('put');
    await host.control.resume(id);
    expect(await (await host.guest(id)).recall()).toBe('a thing');
    await requireNothing(host);
  });

  it('a suspended sandbox whose removal fails stays, and can be removed later', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true });
    await (await host.guest(id)).remember('a thing');
    await host.control.pause(id, 'disk');
    host.script.fail('put');
    await expect(host.control.remove(id)).rejects.toThrow('put failed');
    expect(await host.control.get(id)).toMatchObject({ status: 'paused', pausedTo: 'disk' });
    expect(await (await host.guest(id)).recall()).toBe('a thing');
    await requireNothing(host);
  });

  it('a listener that throws, or changes the sandbox, delays nothing', async () => {
    await using host = await FakeHost.open();
    host.control.onChange(() => {
      throw new Error('a bad listener');
    });
    const removed: Promise<unknown>[] = [];
    host.control.onChange(({ id, status }) => {
      if (status === 'saving') removed.push(host.control.remove(id));
    });
    const { id } = await host.control.create({ boot: true });
    await expect(host.control.pause(id, 'disk')).rejects.toMatchObject({ code: 'gone' });
    await Promise.all(removed);
    expect(removed).toHaveLength(1);
    await requireNothing(host);
  });
});
