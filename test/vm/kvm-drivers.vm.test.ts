/** The drivers with Linux guests on KVM: on machines whose KVM runs them, as the nested host's does. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { probeAccelerator } from '../../src/machine/vmm/accelerator/probe.ts';
import { createFirecrackerDriver } from '../../src/machine/vmm/firecracker/driver.ts';
import { createQemuDriver } from '../../src/machine/vmm/qemu/driver.ts';
import { createVsockHost } from '../../src/machine/vsock/host.ts';
import { driverParity, type ParityFiles } from '../support/driver-parity.ts';
import { echoGuestFiles } from '../support/echo-image.ts';
import { firecrackerFiles } from '../support/firecracker.ts';
import { requires } from '../support/requires.ts';

const guest = echoGuestFiles();

/** Firecracker and the guest, or why Linux can not run in it here. */
async function linuxOnKvm(): Promise<{ firecracker: string; guest: ParityFiles } | string> {
  if (typeof guest === 'string') return guest;
  const cacheDir = mkdtempSync(join(tmpdir(), 'nv-probe-'));
  try {
    const { accelerator, reason } = await probeAccelerator({ cacheDir });
    if (accelerator !== 'kvm') return reason ?? 'KVM runs no Linux here';
  } finally {
    rmSync(cacheDir, { recursive: true, force: true });
  }
  const given = process.env['NEUROVISOR_FIRECRACKER'];
  const found = given === undefined ? firecrackerFiles() : { firecracker: given };
  return typeof found === 'string' ? found : { firecracker: found.firecracker, guest };
}

requires('firecracker-linux', await linuxOnKvm()).describe('drivers with Linux guests on KVM', (found) => {
  describe('Firecracker', () =>
    driverParity(
      () =>
        createFirecrackerDriver({
          binary: found.firecracker,
          clock: systemClock,
          log: silentLog,
          tracksDirtyPages: true,
        }),
      async () => found.guest,
      // There is no power button: a Linux that powers off stays halted, and the host ends it.
      ['nic', 'poweroff', 'paused-connections', 'flood'],
    ));

  describe('QEMU', () => {
    const vsock = createVsockHost({ log: silentLog });
    afterAll(() => vsock.close());
    driverParity(
      () =>
        createQemuDriver({
          accelerator: 'kvm',
          binary: 'qemu-system-x86_64',
          attachVsock: (spec) => vsock.attach(spec),
          clock: systemClock,
          log: silentLog,
        }),
      async () => found.guest,
      ['mapped', 'flood'],
    );
  });
});
