/** The Firecracker driver with a real Firecracker and a guest of some kilobytes, on whatever KVM there is. */
import { afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import type { VmmDriver } from '../../src/machine/vmm/driver.ts';
import { createFirecrackerDriver } from '../../src/machine/vmm/firecracker/driver.ts';
import { ask, driverParity, VmBench } from '../support/driver-parity.ts';
import { requiresFirecracker } from '../support/firecracker.ts';

requiresFirecracker().describe('Firecracker driver', (files) => {
  const makeDriver = (): Promise<VmmDriver> =>
    createFirecrackerDriver({ binary: files.firecracker, clock: systemClock, log: silentLog, tracksDirtyPages: true });
  let driver: VmmDriver;
  let bench: VmBench;
  beforeAll(async () => {
    driver = await makeDriver();
  });
  beforeEach(() => {
    bench = new VmBench(driver, files);
  });
  afterEach(() => bench.close());

  // Firecracker opens its NIC by the TAP's name and keeps it: firecracker-devices.test.ts.
  driverParity(makeDriver, async () => files, ['nic', 'disks', 'paused-connections']);

  it('start: the channel carries bytes both ways', async () => {
    const vm = await bench.boot();
    expect(await ask(vm, 'PRINT here')).toBe('done');
    expect(vm.consoleTail()).toContain('here');
  });
});
