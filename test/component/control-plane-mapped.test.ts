/** Sandboxes whose VMM maps the RAM that they start from. */
import { describe, expect, it, vi } from 'vitest';
import { openGate } from '../../src/sandbox/start/start-gate.ts';
import type { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import { FakeHost } from '../support/fake-host.ts';
import { requireNothing } from '../support/fake-leftovers.ts';
import type { FakeGuest } from '../support/fake-vm.ts';

const open = (): Promise<FakeHost> => FakeHost.open({ mapsMemory: true });
const recall = async (host: FakeHost, id: string): Promise<string> =>
  await ((await host.guest(id)) as FakeGuest).recall();

describe('LocalControlPlane: mapped RAM', () => {
  it('create: a clone maps its template and copies nothing', async () => {
    await using host = await open();
    host.script.fail('fill-memory');
    const { id, origin } = await host.control.create({});
    expect(origin).toBe('clone');
    expect(await recall(host, id)).toBe('of the template');
    expect((await host.holdings())['mappings']).toBe(1);
    await host.control.remove(id);
    expect((await host.holdings())['mappings']).toBeUndefined();
  });

  it('tenants: each shares with its own, whatever a sandbox starts from; members of pools with nobody', async () => {
    const supervisors: Supervisor[] = [];
    const gate = {
      ...openGate,
      ownerOf: (annotations: Record<string, string>) => annotations['of'] ?? 'operator',
      sharersOf: (annotations: Record<string, string> | null) => annotations?.['of'] ?? null,
    };
    const watch = (one: Supervisor): number => supervisors.push(one);
    await using host = await FakeHost.open({ mapsMemory: true, gate, watch });
    const annotations = { of: 'acme' };
    const { id, sharesMemory } = await host.control.create({ annotations });
    expect(sharesMemory).toBe(true);
    await host.control.create({ annotations: { of: 'other' } });
    await host.control.fork(id, { count: 1 });
    await host.control.snapshot(id, { name: 'kept' });
    await host.control.create({ snapshot: 'kept', annotations });
    const sharers = (): (string | null)[] => supervisors.map((one) => one.sharers);
    expect(sharers()).toEqual(['acme', 'other', 'acme', 'acme']);
    await host.control.setPool({ min: 1, max: 1 });
    await vi.waitFor(async () => expect((await host.control.pools())[0]?.ready).toBe(1));
    const claimed = await host.control.create({ annotations });
    expect(claimed).toMatchObject({ origin: 'pool', sharesMemory: false });
    expect(sharers()[4]).toBeNull();
  });

  it('pause to disk and resume, twice: the guest keeps what it remembers, changed or not', async () => {
    await using host = await open();
    const { id } = await host.control.create({});
    for (const text of ['one', 'two']) {
      await (await host.guest(id)).remember(text);
      await host.control.pause(id, 'disk');
      expect((await host.holdings())['mappings']).toBeUndefined();
      await host.control.resume(id);
      expect(await recall(host, id)).toBe(text);
      await host.control.pause(id, 'disk');
      await host.control.resume(id);
      expect(await recall(host, id)).toBe(text);
    }
    await requireNothing(host);
  });

  it('snapshot: sandboxes map it, also after it was removed, and change only their own RAM', async () => {
    await using host = await open();
    const { id } = await host.control.create({});
    await (await host.guest(id)).remember('a thing');
    await host.control.snapshot(id, { name: 'kept' });
    const [one, two] = [
      await host.control.create({ snapshot: 'kept' }),
      await host.control.create({ snapshot: 'kept' }),
    ];
    await host.control.removeSnapshot('kept');
    await (await host.guest(one.id)).remember('another');
    for (const each of [one, two]) {
      await host.control.pause(each.id, 'disk');
      await host.control.resume(each.id);
    }
    expect(await recall(host, one.id)).toBe('another');
    expect(await recall(host, two.id)).toBe('a thing');
    expect(await recall(host, id)).toBe('a thing');
    await requireNothing(host);
  });

  it('fork: the forks map one file, which is gone when all have started; forks can be forked', async () => {
    await using host = await open();
    const { id } = await host.control.create({});
    await (await host.guest(id)).remember('a thing');
    const ids: string[] = [];
    for (const of of [id, id]) {
      for (const fork of await host.control.fork(ids.at(-1) ?? of, { count: 2 })) {
        if (!fork.ok) throw new Error(fork.message);
        ids.push(fork.sandbox.id);
      }
    }
    expect(await host.stored()).toMatchObject({ files: 0, staged: 0, trash: 0 });
    expect((await host.holdings())['memories']).toBe(5);
    for (const each of ids) expect(await recall(host, each)).toBe('a thing');
    await requireNothing(host);
  });

  it.each(['map-memory', 'fill-memory', 'keep-memory'] as const)(
    'a failing %s leaves the sandbox as it was, and nothing else',
    async (phase) => {
      await using host = await open();
      const { id } = await host.control.create({});
      await (await host.guest(id)).remember('a thing');
      if (phase === 'map-memory') {
        await host.control.pause(id, 'disk');
        host.script.fail(phase);
        await expect(host.control.resume(id)).rejects.toBeDefined();
        expect(await host.holdings()).toEqual({});
        await host.control.resume(id);
      } else {
        host.script.fail(phase);
        await expect(host.control.pause(id, 'disk')).rejects.toBeDefined();
        await host.control.pause(id, 'disk');
        await host.control.resume(id);
      }
      expect(await recall(host, id)).toBe('a thing');
      await requireNothing(host);
    },
  );
});
