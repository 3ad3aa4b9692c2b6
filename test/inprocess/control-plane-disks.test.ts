/** Disk limits over the life of a sandbox. No VMs. */
import { describe, expect, it } from 'vitest';
import { REFILL_DELAY_MS } from '../../src/sandbox/start/pools.ts';
import { FakeHost } from '../support/fake-host.ts';
import { requireNothing } from '../support/fake-leftovers.ts';

const SLOW = { bytesPerSecond: 1024 * 1024, opsPerSecond: 100 };

describe('LocalControlPlane: limits of disks', () => {
  it.each([true, false])('create: no limits by default; requested ones apply once ready (boot: %s)', async (boot) => {
    await using host = await FakeHost.open();
    const plain = await host.control.create({ boot });
    expect(host.vm(plain.id).diskLimits).toEqual({});
    const { id, diskLimits } = await host.control.create({ boot, diskLimits: SLOW });
    expect(host.vm(id).diskLimits).toEqual(SLOW);
    expect([plain.diskLimits, diskLimits]).toEqual([{}, SLOW]);
    expect((await host.control.remove(id)).diskLimits).toEqual(SLOW);
    expect((await host.control.get(id)).diskLimits).toEqual(SLOW);
    await requireNothing(host);
  });

  it('create: a pool member gets the limits', async () => {
    await using host = await FakeHost.open();
    await host.control.setPool({ min: 1, max: 1 });
    host.clock.advance(REFILL_DELAY_MS);
    await expect.poll(async () => (await host.control.pools())[0]?.ready).toBe(1);
    const { id, origin } = await host.control.create({ diskLimits: SLOW });
    expect([origin, host.vm(id).diskLimits]).toEqual(['pool', SLOW]);
    await requireNothing(host);
  });

  it('create: a boot is not limited; a clone is limited before it runs', async () => {
    await using host = await FakeHost.open();
    const seen: unknown[] = [];
    const look = async (boot: boolean): Promise<void> => {
      const held = host.script.hold('hello');
      const creating = host.control.create({ boot, diskLimits: SLOW });
      await held.reached;
      seen.push(...host.vms().map(({ diskLimits }) => diskLimits));
      held.release();
      await host.control.remove((await creating).id);
    };
    await look(true);
    await look(false);
    expect(seen).toEqual([{}, SLOW]);
    await requireNothing(host);
  });

  it('update: applies at once, to later VMs and to forks', async () => {
    await using host = await FakeHost.open();
    const { control } = host;
    const { id } = await control.create({ boot: true, diskLimits: SLOW });
    const faster = { opsPerSecond: 5000 };
    await control.update(id, { diskLimits: faster });
    expect(host.vm(id).diskLimits).toEqual(faster);
    const [fork] = await control.fork(id, { count: 1 });
    if (fork?.ok !== true) throw new Error('no fork');
    expect(host.vm(fork.sandbox.id).diskLimits).toEqual(faster);
    await control.pause(id, 'disk');
    await control.resume(id);
    expect(host.vm(id).diskLimits).toEqual(faster);
    await control.update(id, { diskLimits: {} });
    expect(host.vm(id).diskLimits).toEqual({});
    await requireNothing(host);
  });

  it.each([
    { bytesPerSecond: 0 },
    { bytesPerSecond: 65_535 },
    { bytesPerSecond: 1e13 },
    { bytesPerSecond: 1e6 + 0.5 },
    { opsPerSecond: 9 },
    { opsPerSecond: Number.NaN },
    { opsPerSecond: -100 },
  ])('an invalid limit is refused by name: %j', async (diskLimits) => {
    await using host = await FakeHost.open();
    const refused = {
      code: 'spec_invalid',
      message: expect.stringContaining(`diskLimits.${Object.keys(diskLimits)[0]}`),
    };
    await expect(host.control.create({ diskLimits })).rejects.toMatchObject(refused);
    const { id } = await host.control.create({ boot: true, diskLimits: SLOW });
    await expect(host.control.update(id, { diskLimits })).rejects.toMatchObject(refused);
    expect(host.vm(id).diskLimits).toEqual(SLOW);
    await requireNothing(host);
  });
});
