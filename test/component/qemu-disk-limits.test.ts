/**
 * Disk limits on a real QEMU. Times have only lower bounds: a limited transfer takes at least its time, however busy
 * the machine; without a limit, at least one of several tries takes less.
 */
import { describe, expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { limitDisks } from '../../src/machine/vmm/qemu/disk-limits.ts';
import { StandingQemu } from '../support/standing-qemu.ts';

const TRIES_MAX = 50;
/** QEMU's timers may end a wait this early, as a fraction of the wait. */
const EARLY = 0.95;

/** Minimum time with a bucket of a tenth of a second; the first request may overdraw it. */
const leastMs = (requests: number, each: number, perSecond: number): number =>
  EARLY * 1000 * (((requests - 1) * each) / perSecond - 0.1);

async function isOnceBelow(leastMs: number, go: () => Promise<number>): Promise<boolean> {
  for (let n = 0; n < TRIES_MAX; n += 1) if ((await go()) < leastMs) return true;
  return false;
}

describe('limitDisks', () => {
  it('bytesPerSecond: reads and writes of both disks share one budget until it is lifted', async () => {
    await using qemu = await StandingQemu.start();
    const mixed = async (): Promise<number> =>
      (await qemu.io('overlay', 'write', 2, 2 * MIB)) +
      (await qemu.io('root', 'read', 1, 2 * MIB)) +
      (await qemu.io('overlay', 'read', 1, 2 * MIB));
    const least = leastMs(4, 2 * MIB, 4 * MIB);
    expect(await isOnceBelow(least, mixed)).toBe(true);
    await limitDisks(qemu.qmp, { bytesPerSecond: 4 * MIB });
    expect(await mixed()).toBeGreaterThan(least);
    await limitDisks(qemu.qmp, {});
    expect(await isOnceBelow(least, mixed)).toBe(true);
  });

  it('opsPerSecond: small requests wait too, and a new limit replaces the old', async () => {
    await using qemu = await StandingQemu.start();
    const some = (): Promise<number> => qemu.io('overlay', 'write', 21, 512);
    const least = leastMs(21, 1, 20);
    await limitDisks(qemu.qmp, { bytesPerSecond: 100 * MIB });
    expect(await isOnceBelow(least, some)).toBe(true);
    await limitDisks(qemu.qmp, { opsPerSecond: 20 });
    expect(await some()).toBeGreaterThan(least);
  });

  it('limitDisks: reports a QEMU whose disks are not ours', async () => {
    await using qemu = await StandingQemu.start();
    const execute = qemu.qmp.execute.bind(qemu.qmp);
    qemu.qmp.execute = async (command, ...more) =>
      command === 'query-block' ? [null, { qdev: 7 }] : await execute(command, ...more);
    await expect(limitDisks(qemu.qmp, { opsPerSecond: 20 })).rejects.toMatchObject({ code: 'vmm_command_failed' });
  });
});
