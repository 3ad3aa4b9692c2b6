/** The Firecracker driver with Linux guests: on machines whose KVM runs them. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { probeAccelerator } from '../../src/vmm/accelerator/probe.ts';
import { createFirecrackerDriver } from '../../src/vmm/firecracker/driver.ts';
import { driverParity, type ParityFiles } from '../support/driver-parity.ts';
import { echoGuestFiles } from '../support/echo-image.ts';
import { firecrackerFiles } from '../support/firecracker.ts';
import { requires } from '../support/requires.ts';

const guest = echoGuestFiles();

/** Firecracker and the guest, or why Linux can not run in it here. */
async function linuxInFirecracker(): Promise<{ firecracker: string; guest: ParityFiles } | string> {
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

requires('firecracker-linux', await linuxInFirecracker()).describe(
  'Firecracker driver with Linux guests',
  (found) => {
    driverParity(
      () =>
        createFirecrackerDriver({
          binary: found.firecracker,
          clock: systemClock,
          log: silentLog,
          allowOlder: true,
          tracksDirtyPages: true,
        }),
      async () => found.guest,
      // There is no power button: a Linux that powers off stays halted, and the host ends it.
      ['nic', 'poweroff'],
    );
  },
);
