import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { driverParity, VmBench } from '../support/driver-parity.ts';
import { createFakeDriver } from '../support/fake-vmm/driver.ts';

const dir = mkdtempSync(join(tmpdir(), 'nv-fake-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const files = { kernelPath: join(dir, 'vmlinux'), rootImagePath: join(dir, 'root') };
for (const path of Object.values(files)) writeFileSync(path, '');

describe('fake driver', () => {
  driverParity(
    async () => createFakeDriver({ clock: systemClock }),
    async () => files,
    ['mapped', 'disks'],
  );

  it('crash: differs from a shutdown', async () => {
    const driver = createFakeDriver({ clock: systemClock, guest: (io) => io.crash() });
    const bench = new VmBench(driver, files);
    const vm = await driver.start(bench.spec());
    expect((await vm.exited).cause).toBe('vmm-crashed');
    await bench.close();
  });

  it('guest: a guest that throws panics on its console', async () => {
    const driver = createFakeDriver({ clock: systemClock, guest: () => Promise.reject(new Error('no init found')) });
    const bench = new VmBench(driver, files);
    const vm = await driver.start(bench.spec());
    expect((await vm.exited).cause).toBe('guest-shutdown');
    expect(vm.consoleTail()).toContain('no init found');
    await bench.close();
  });
});
