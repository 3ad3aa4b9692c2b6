/** Creates the chosen VMM's driver. */
import { systemClock } from '../../base/clock.ts';
import type { Config } from '../../base/config.ts';
import type { Home } from '../../base/home.ts';
import type { Log } from '../../base/log.ts';
import { type ProbeVerdict, probeAccelerator } from '../../machine/vmm/accelerator/probe.ts';
import type { VmmDriver } from '../../machine/vmm/driver.ts';
import type { Launch } from '../../machine/vmm/launch.ts';
import { createQemuDriver } from '../../machine/vmm/qemu/driver.ts';
import type { VsockHost } from '../../machine/vsock/host.ts';
import { totalMib } from '../probes/host-memory.ts';
import type { VmmMemory } from '../probes/vmm-memory.ts';
import { RuntimeError } from './errors.ts';
import { type Confinement, confine, QEMU_BINARY } from './jail.ts';
import { ramSharingOf, SHARING_REMEDY } from './ram/sharing.ts';
import type { VmmChoice } from './vmm-choice.ts';
import type { ProcessRef } from './workspace.ts';

/** @throws RuntimeError `no_accelerator`, `jail_unavailable`; VmmError `vmm_missing` */
export async function makeDriver(options: {
  choice: VmmChoice;
  config: Config;
  home: Home;
  log: Log;
  vsock: VsockHost;
  memory: VmmMemory;
  /** The VMs are kept for it. */
  keeper: ProcessRef | null;
  aroundLaunch?: ((launch: Launch) => Launch) | undefined;
}): Promise<{ driver: VmmDriver; confinement: Confinement }> {
  const { choice, config, home, log, vsock, memory, keeper } = options;
  if (choice.vmm === 'firecracker') {
    const { makeFirecracker } = await import('./firecracker/firecracker.ts');
    return await makeFirecracker({ config, home, log, memory }, choice.confined);
  }
  const [verdict, confinement] = await Promise.all([
    probeAccelerator({ cacheDir: home.cacheDir }),
    confine({ config, home, log, binary: QEMU_BINARY, keeper: keeper ?? undefined }),
  ]);
  const { aroundLaunch = (launch) => launch } = options;
  const launch = memory.around(aroundLaunch(confinement.launch));
  const { ownFilter, sparesFiles, outlives } = confinement;
  try {
    const sharing = await ramSharingOf({ config, home, confinement, binary: QEMU_BINARY });
    const { obstacle } = sharing;
    if (obstacle !== undefined) log.warn('sandboxes share no memory', { cause: obstacle, remedy: SHARING_REMEDY });
    const driver = await createQemuDriver({
      accelerator: chooseAccelerator(config.accelerator, verdict),
      binary: QEMU_BINARY,
      attachVsock: (spec) => vsock.attach(spec),
      copiesMemory: sharing.isShared,
      ...(sharing.isShared ? { mapsMemoryMibMax: sharedMibMax(totalMib()) } : {}),
      clock: systemClock,
      log,
      launch,
      sparesFiles,
      outlives,
      ownFilter,
    });
    return { driver: { ...driver, memorySharing: sharing.text }, confinement };
  } catch (error) {
    await confinement.close();
    throw error;
  }
}

/**
 * Shared memory grows, beside the clones' own, by the pages that a clone is the first to touch, up to its full size:
 * for one large sandbox a copy takes less.
 */
const HOST_PER_SHARED = 12;

/** @param hostMib total memory. Machines sold as 8 GiB have a little less: their default sandboxes should share */
export const sharedMibMax = (hostMib: number): number => Math.floor(hostMib / HOST_PER_SHARED);

/** @throws RuntimeError `no_accelerator` if the machine lacks the requested accelerator */
export function chooseAccelerator(wanted: Config['accelerator'], verdict: ProbeVerdict): 'kvm' | 'tcg' {
  if (verdict.accelerator === 'none') {
    throw new RuntimeError('no_accelerator', `no VMM can run here: ${verdict.reason}`, {
      remedy: 'run `./neurovisor doctor`',
    });
  }
  if (wanted === 'kvm' && verdict.accelerator !== 'kvm') {
    throw new RuntimeError('no_accelerator', `cannot use KVM: ${verdict.reason}`, {
      remedy: [verdict.details.kvm.remedy, 'unset NEUROVISOR_ACCELERATOR to run in software emulation']
        .filter((one) => one !== undefined)
        .join(' Or '),
    });
  }
  return wanted === 'auto' ? verdict.accelerator : wanted;
}
