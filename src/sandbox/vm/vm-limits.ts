/** Limits that can change while a VM runs. */
import { hasDiskLimits } from '../../base/request/disk-limits.ts';
import type { Vm } from '../../machine/vmm/driver.ts';
import type { SandboxSpec } from '../contract/spec.ts';

export type VmLimits = Pick<SandboxSpec, 'channelLimits' | 'diskLimits'>;

export type VmLimitsChange = { readonly [K in keyof VmLimits]?: VmLimits[K] | undefined };

/** Replaces the given limits. @throws VmmError */
export async function limitVm(vm: Vm | undefined, limits: VmLimitsChange): Promise<void> {
  const { channelLimits, diskLimits } = limits;
  if (channelLimits !== undefined) await vm?.setChannelLimits(channelLimits);
  if (diskLimits !== undefined) await vm?.setDiskLimits(diskLimits);
}

/** Returns only the limits that are set: a VM without any needs no call. */
export function namedLimits({ channelLimits, diskLimits }: VmLimits): Partial<VmLimits> {
  return {
    ...(Object.keys(channelLimits).length === 0 ? {} : { channelLimits }),
    ...(hasDiskLimits(diskLimits) ? { diskLimits } : {}),
  };
}
