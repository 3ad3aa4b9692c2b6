/** Forks start while their parent returns from its save: which part fails, and what is left. No VMs. */
import { describe, expect, it } from 'vitest';
import type { SandboxInfo } from '../../src/sandbox/contract/control.ts';
import { openGate } from '../../src/sandbox/start/start-gate.ts';
import { FakeHost } from '../support/fake-host.ts';
import { NOTHING_STORED, requireNothing } from '../support/fake-leftovers.ts';
import type { Held } from '../support/fake-script.ts';
import type { FakeGuest, FakeVm } from '../support/fake-vm.ts';

const open = (): Promise<FakeHost> => FakeHost.open({ mapsMemory: 'differences', concurrency: 8 });

const recall = async (host: FakeHost, id: string): Promise<string> =>
  await ((await host.guest(id)) as FakeGuest).recall();

/** A sandbox that remembers something; all sandboxes that the host ever shows. */
async function begin(host: FakeHost): Promise<{ id: string; shown: Set<string> }> {
  const { id } = await host.control.create({});
  await (await host.guest(id)).remember('a thing');
  const shown = new Set<string>();
  host.control.onChange((info) => shown.add(info.id));
  return { id, shown };
}

/** The parent waits before its vsock device comes back; its forks do not. */
const holdParent = (host: FakeHost, id: string): Held => host.script.holdOf('plug', host.vm(id) as FakeVm);

async function forkAll(host: FakeHost, id: string, count = 2): Promise<SandboxInfo[]> {
  return (await host.control.fork(id, { count })).map((one) => {
    if (!one.ok) throw new Error(one.message);
    return one.sandbox;
  });
}

/** Waits until this many VMs have started since the host was opened. */
const started = (host: FakeHost, count: number): Promise<void> => expect.poll(() => host.started).toBe(count);

describe('LocalControlPlane: forks and their parent at once', () => {
  it('forks start before the parent has returned, and are sandboxes once it has', async () => {
    await using host = await open();
    const { id, shown } = await begin(host);
    const parent = holdParent(host, id);
    const forking = forkAll(host, id);
    await started(host, 3);
    expect([...shown]).toEqual([id]);
    expect(await host.control.list()).toMatchObject([{ id, status: 'saving' }]);
    parent.release();
    const forks = await forking;
    expect(await host.control.get(id)).toMatchObject({ status: 'running' });
    for (const one of [id, ...forks.map((fork) => fork.id)]) expect(await recall(host, one)).toBe('a thing');
    await requireNothing(host);
  });

  it('the parent’s changes are written while forks start, which load them later', async () => {
    await using host = await open();
    const { id } = await begin(host);
    const rest = host.script.hold('write-rest');
    const forking = forkAll(host, id);
    await rest.reached;
    // Both have their files, and wait.
    await expect.poll(async () => (await host.holdings())['VMs']).toBe(3);
    expect(host.started).toBe(1);
    rest.release();
    for (const fork of await forking) expect(await recall(host, fork.id)).toBe('a thing');
    await requireNothing(host);
  });

  it('the changes can not be written: no fork, the sandbox continues, and nothing is left behind', async () => {
    await using host = await open();
    const { id, shown } = await begin(host);
    const rest = host.script.hold('write-rest');
    const forking = host.control.fork(id, { count: 2 });
    await expect.poll(async () => (await host.holdings())['VMs']).toBe(3);
    rest.release(Object.assign(new Error('write'), { code: 'ENOSPC' }));
    await expect(forking).rejects.toMatchObject({ code: 'disk_full' });
    expect([...shown]).toEqual([id]);
    expect(await host.control.list()).toMatchObject([{ id, status: 'running' }]);
    expect(await host.holdings()).toMatchObject({ VMs: 1, memories: 1, mappings: 1 });
    await expect.poll(() => host.stored()).toEqual(NOTHING_STORED);
    expect(await recall(host, id)).toBe('a thing');
    await requireNothing(host);
  });

  it.each(['ready', 'start', 'hello', 'copy-disk'] as const)(
    'the parent dies while its forks are at %s: they end with it, and were never visible',
    async (at) => {
      const ids = { ran: [] as string[], abandoned: [] as string[] };
      const gate = {
        ...openGate,
        admit: () => ({ runsAs: (one: string) => ids.ran.push(one), release: () => undefined }),
        abandoned: (one: string) => ids.abandoned.push(one),
      };
      await using host = await FakeHost.open({ mapsMemory: 'differences', concurrency: 8, gate });
      const { id, shown } = await begin(host);
      const parent = holdParent(host, id);
      const child = at === 'ready' ? null : host.script.hold(at);
      const forking = host.control.fork(id, { count: 2 });
      const refused = expect(forking).rejects.toMatchObject({ code: 'gone' });
      await parent.reached;
      await (child?.reached ?? started(host, 3));
      host.vm(id).die();
      await host.became(id, 'ended');
      child?.release();
      await refused;
      expect([...shown]).toEqual([id]);
      expect(await host.control.get(id)).toMatchObject({ end: { cause: 'vmm-crashed' } });
      // All forks that the owner's quota counted.
      expect(ids.abandoned.sort()).toEqual(ids.ran.filter((one) => one !== id).sort());
      if (at === 'ready') expect(ids.abandoned).toHaveLength(2);
      parent.release();
      await requireNothing(host);
    },
  );

  it.each(['workspace', 'copy-disk', 'start'] as const)(
    'a fork that fails at %s before the parent has returned changes nothing for it',
    async (at) => {
      await using host = await open();
      const { id } = await begin(host);
      const parent = holdParent(host, id);
      host.script.fail(at);
      const forking = host.control.fork(id, { count: 3 });
      await started(host, 3);
      parent.release();
      const results = await forking;
      expect(results.filter(({ ok }) => !ok)).toMatchObject([{ code: 'start_failed' }]);
      expect(results.filter(({ ok }) => ok)).toHaveLength(2);
      expect(await recall(host, id)).toBe('a thing');
      await requireNothing(host);
    },
  );

  it('the sandbox is removed before it has returned: it ends, and its forks with it', async () => {
    await using host = await open();
    const { id, shown } = await begin(host);
    const parent = holdParent(host, id);
    const refused = expect(host.control.fork(id, { count: 2 })).rejects.toMatchObject({ code: 'gone' });
    await parent.reached;
    await started(host, 3);
    const removing = host.control.remove(id);
    parent.release();
    expect(await removing).toMatchObject({ status: 'ended' });
    await refused;
    expect([...shown]).toEqual([id]);
    await requireNothing(host);
  });

  it('the host closes before the parent has returned: nothing is left behind', async () => {
    await using host = await open();
    const { id } = await begin(host);
    const parent = holdParent(host, id);
    const forking = host.control.fork(id, { count: 2 });
    await started(host, 3);
    const closing = host.control.close();
    parent.release();
    expect(await forking).toMatchObject([{ code: 'cancelled' }, { code: 'cancelled' }]);
    await closing;
    expect(await host.holdings()).toEqual({});
  });

  it('of a sandbox paused in memory: it is paused again', async () => {
    await using host = await open();
    const { id } = await begin(host);
    await host.control.pause(id, 'memory');
    const parent = holdParent(host, id);
    const forking = forkAll(host, id);
    await started(host, 3);
    parent.release();
    for (const fork of await forking) expect(await recall(host, fork.id)).toBe('a thing');
    expect(await host.control.get(id)).toMatchObject({ status: 'paused', pausedTo: 'memory' });
    expect(host.vm(id).runs).toBe(false);
    await requireNothing(host);
  });

  it('two concurrent fork commands: the second copies the sandbox once it has returned', async () => {
    await using host = await open();
    const { id } = await begin(host);
    const parent = holdParent(host, id);
    const first = forkAll(host, id);
    await parent.reached;
    const second = forkAll(host, id, 1);
    await started(host, 3);
    expect(host.vm(id).runs).toBe(true);
    parent.release();
    const forks = (await Promise.all([first, second])).flat();
    expect(new Set(forks.map((fork) => fork.id)).size).toBe(3);
    for (const fork of forks) expect(await recall(host, fork.id)).toBe('a thing');
    await requireNothing(host);
  });
});
