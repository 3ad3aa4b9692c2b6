/** Chooses the VMM from the configuration and what the probe finds on this machine. */
import { systemClock } from '../base/clock.ts';
import { describeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Config } from '../config.ts';
import type { Home } from '../home.ts';
import type { VmmMemory } from '../probes/vmm-memory.ts';
import { type ProbeVerdict, probeAccelerator } from '../vmm/accelerator/probe.ts';
import type { VmmDriver } from '../vmm/driver.ts';
import { VmmError } from '../vmm/errors.ts';
import { readFirecrackerVersion } from '../vmm/firecracker/installation.ts';
import { createQemuDriver } from '../vmm/qemu/driver.ts';
import type { VsockHost } from '../vsock/host.ts';
import { RuntimeError } from './errors.ts';
import { type Confinement, confine } from './jail.ts';

export async function makeDriver(options: {
  config: Config;
  home: Home;
  log: Log;
  vsock: VsockHost;
  memory: VmmMemory;
}): Promise<{ driver: VmmDriver; confinement: Confinement }> {
  const { config, home, log, vsock } = options;
  if (config.vmm !== 'qemu') {
    const verdict = await probeAccelerator({ cacheDir: home.cacheDir });
    // With QEMU installed `auto` chooses it, without asking for Firecracker's version.
    if (config.vmm === 'firecracker' || verdict.details.qemu === null) {
      const firecracker = await judgeFirecracker(config.firecracker);
      const vmm = chooseVmm(config, verdict, firecracker);
      if (isOnlyVmm(verdict, firecracker) && config.vmm === 'auto') {
        if (vmm === 'firecracker')
          log.warn('QEMU is not installed: VMs run in Firecracker, without a jail');
        else log.warn('QEMU is not installed; choose Firecracker with --vmm firecracker');
      }
      if (vmm === 'firecracker') {
        const { makeFirecracker } = await import('./firecracker.ts');
        return await makeFirecracker({ config, home, log, memory: options.memory });
      }
    }
  }
  const [verdict, confinement] = await Promise.all([
    probeAccelerator({ cacheDir: home.cacheDir }),
    confine({ config, home, log, binary: QEMU_BINARY }),
  ]);
  const launch = options.memory.around(confinement.launch);
  const { ownFilter } = confinement;
  try {
    const driver = await createQemuDriver({
      accelerator: chooseAccelerator(config.accelerator, verdict),
      binary: QEMU_BINARY,
      attachVsock: (spec) => vsock.attach(spec),
      clock: systemClock,
      log,
      launch,
      ownFilter,
    });
    return { driver, confinement };
  } catch (error) {
    await confinement.close();
    throw error;
  }
}

/** Refuses an impossible choice before the set-up, which takes minutes. @throws RuntimeError as `chooseVmm` */
export async function checkVmmChoice(config: Config, { cacheDir }: Home): Promise<void> {
  if (config.vmm !== 'firecracker') return;
  const firecracker = await judgeFirecracker(config.firecracker);
  chooseVmm(config, await probeAccelerator({ cacheDir }), firecracker);
}

/** Firecracker on this machine. */
export interface FirecrackerVerdict {
  /** Null: not usable. */
  readonly version: string | null;
  /** Why it is not usable, one clause for people; null: usable. */
  readonly problem: string | null;
}

/** Never throws for a missing or unsuitable binary. */
export async function judgeFirecracker(binary: string): Promise<FirecrackerVerdict> {
  try {
    return { version: (await readFirecrackerVersion(binary)).text, problem: null };
  } catch (error) {
    const why = error instanceof VmmError ? (error.cause ?? error) : error;
    return { version: null, problem: describeError(why) };
  }
}

/**
 * Firecracker only on request, or without QEMU and with the jail off: no default is less confined than requested.
 * Running sandboxes on Firecracker cannot get a network (docs/firecracker.md).
 * @throws RuntimeError `no_accelerator`: the requested VMM cannot run here
 */
export function chooseVmm(
  { vmm, accelerator, jail }: Pick<Config, 'vmm' | 'accelerator' | 'jail'>,
  verdict: Pick<ProbeVerdict, 'accelerator' | 'reason' | 'details'>,
  firecracker: FirecrackerVerdict,
): 'firecracker' | 'qemu' {
  if (vmm === 'qemu') return 'qemu';
  if (vmm === 'auto') {
    const isFree = jail === 'off' && accelerator !== 'tcg';
    return isFree && isOnlyVmm(verdict, firecracker) ? 'firecracker' : 'qemu';
  }
  const refuse = (why: string): never => {
    throw new RuntimeError('no_accelerator', `cannot use Firecracker: ${why}`, {
      remedy: 'choose QEMU (--vmm qemu or NEUROVISOR_VMM=qemu), or run `./neurovisor doctor`',
    });
  };
  if (accelerator === 'tcg') return refuse('it has no software emulation');
  if (firecracker.problem !== null) return refuse(firecracker.problem);
  if (verdict.accelerator !== 'kvm') return refuse(verdict.reason);
  return 'firecracker';
}

function isOnlyVmm(
  { accelerator, details }: Pick<ProbeVerdict, 'accelerator' | 'details'>,
  { version }: FirecrackerVerdict,
): boolean {
  return details.qemu === null && accelerator === 'kvm' && version !== null;
}

export const QEMU_BINARY = 'qemu-system-x86_64';

/** @throws RuntimeError `no_accelerator`: the machine lacks the requested accelerator */
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
    throw new RuntimeError('no_accelerator', `cannot use KVM: ${verdict.reason}`, {
      remedy: 'unset NEUROVISOR_ACCELERATOR to run in software emulation',
    });
  }
  return wanted === 'auto' ? verdict.accelerator : wanted;
}
