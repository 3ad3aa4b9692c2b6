/** What a VM is limited to beside its size: all of it can change while it runs. */
import { hasDiskLimits } from '../../base/disk-limits.ts';
import type { Vm } from '../../vmm/driver.ts';
import type { SandboxSpec } from '../spec.ts';

export type VmLimits = Pick<SandboxSpec, 'channelLimits' | 'diskLimits'>;

export type VmLimitsChange = { readonly [K in keyof VmLimits]?: VmLimits[K] | undefined };

/** Replaces what is given. @throws VmmError */
export async function limitVm(vm: Vm | undefined, limits: VmLimitsChange): Promise<void> {
  const { channelLimits, diskLimits } = limits;
  if (channelLimits !== undefined) await vm?.setChannelLimits(channelLimits);
  if (diskLimits !== undefined) await vm?.setDiskLimits(diskLimits);
}

/** Of those, the ones that say something: a VM that never had any need not be asked. */
export function namedLimits({ channelLimits, diskLimits }: VmLimits): Partial<VmLimits> {
  return {
    ...(Object.keys(channelLimits).length === 0 ? {} : { channelLimits }),
    ...(hasDiskLimits(diskLimits) ? { diskLimits } : {}),
  };
}
