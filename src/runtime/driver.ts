/** Picks the VMM: what the probe says this machine can run, narrowed by the configuration. */
import { systemClock } from '../base/clock.ts';
import type { Log } from '../base/log.ts';
import type { Config } from '../config.ts';
import type { VmmDriver } from '../vmm/driver.ts';
import { type ProbeVerdict, probeAccelerator } from '../vmm/probe.ts';
import { createQemuDriver } from '../vmm/qemu/driver.ts';
import type { VsockHost } from '../vsock/host.ts';
import { RuntimeError } from './errors.ts';
import type { Home } from './home.ts';
import { type Confinement, confine } from './jail.ts';

export async function makeDriver(options: {
  config: Config;
  home: Home;
  log: Log;
  vsock: VsockHost;
}): Promise<{ driver: VmmDriver; confinement: Confinement }> {
  const { config, home, log, vsock } = options;
  const [verdict, confinement] = await Promise.all([
    probeAccelerator({ cacheDir: home.cacheDir }),
    confine({ config, home, log, binary: QEMU_BINARY }),
  ]);
  const { launch, ownFilter } = confinement;
  try {
    const driver = await createQemuDriver({
      accelerator: chooseAccelerator(config.accelerator, verdict),
      binary: QEMU_BINARY,
      attachVsock: (spec) => vsock.attach(spec),
      clock: systemClock,
      ...{ log, launch, ownFilter },
    });
    return { driver, confinement };
  } catch (error) {
    await confinement.close();
    throw error;
  }
}

export const QEMU_BINARY = 'qemu-system-x86_64';

/** @throws RuntimeError `no_accelerator` when the machine can't do what is asked */
export function chooseAccelerator(
  wanted: Config['accelerator'],
  verdict: ProbeVerdict,
): 'kvm' | 'tcg' {
  if (verdict.accelerator === 'none') {
    throw new RuntimeError('no_accelerator', `no VMM can run here: ${verdict.reason}`, {
      remedy: 'run `./neurovisor doctor`',
    });
  }
  if (wanted === 'kvm' && verdict.accelerator !== 'kvm') {
    throw new RuntimeError('no_accelerator', `KVM was asked for but ${verdict.reason}`, {
      remedy: 'unset NEUROVISOR_ACCELERATOR to run in software emulation',
    });
  }
  return wanted === 'auto' ? verdict.accelerator : wanted;
}
