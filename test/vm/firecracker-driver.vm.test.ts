/** The Firecracker driver with Linux guests: on machines whose KVM runs them. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { probeAccelerator } from '../../src/vmm/accelerator/probe.ts';
import { createFirecrackerDriver } from '../../src/vmm/firecracker/driver.ts';
import { driverParity } from '../support/driver-parity.ts';
import { echoGuestFiles } from '../support/echo-image.ts';
import { firecrackerFiles } from '../support/firecracker.ts';

const guest = echoGuestFiles();
const lacking = await (async (): Promise<string | null> => {
  if (typeof guest === 'string') return guest;
  const cacheDir = mkdtempSync(join(tmpdir(), 'nv-probe-'));
  try {
    const { accelerator, reason } = await probeAccelerator({ cacheDir });
    return accelerator === 'kvm' ? null : reason;
  } finally {
    rmSync(cacheDir, { recursive: true, force: true });
  }
})();

describe.skipIf(lacking !== null)(`Firecracker driver, Linux guests (skipped: ${lacking})`, () => {
  if (lacking !== null || typeof guest === 'string') return;
  const given = process.env['NEUROVISOR_FIRECRACKER'];
  const found = given === undefined ? firecrackerFiles() : { firecracker: given };
  if (typeof found === 'string') throw new Error(found);
  driverParity(
    () =>
      createFirecrackerDriver({
        ...{ binary: found.firecracker, clock: systemClock, log: silentLog, allowOlder: true },
        tracksDirtyPages: true,
      }),
    async () => guest,
    // There is no power button: a Linux that powers off stands still, and the host ends it.
    ['nic', 'poweroff'],
  );
});
