/** The spec from which a driver starts a sandbox's VM. */
import type { VmSnapshot, VmSpec } from '../../machine/vmm/driver.ts';
import { ENVIRONMENT_BOOT_ARGS, environmentDisk } from '../contract/environment.ts';
import type { SandboxParts } from '../contract/parts.ts';
import type { SandboxSpec } from '../contract/spec.ts';
import { vmMemory } from '../memory/size.ts';
import type { Prepared } from './running.ts';

export function vmSpecOf(
  spec: SandboxSpec,
  prepared: Prepared,
  parts: Pick<SandboxParts, 'kernelPath' | 'rootImagePath' | 'template'>,
): VmSpec {
  const { workspace, memory, mapped, memoryReady, cid: guestCid, nic, volumes } = prepared;
  const { kernelPath, rootImagePath, template } = parts;
  const { dir, overlayPath, environmentPath, channelPath } = workspace;
  const { id, cpus, channelLimits, diskLimits, console, environment } = spec;
  const disks = [...(environment === undefined ? [] : [environmentDisk(environmentPath)]), ...(workspace.disks ?? [])];
  const isTold = environment !== undefined && template === undefined;
  return {
    id,
    dir,
    cpus,
    ...vmMemory(spec),
    kernelPath,
    rootImagePath,
    overlayPath,
    ...(disks.length === 0 ? {} : { disks }),
    ...(isTold ? { bootArgs: ENVIRONMENT_BOOT_ARGS } : {}),
    ...(volumes.length === 0 ? {} : { volumes }),
    guestCid,
    channelPath,
    channelLimits,
    console,
    memoryFd: memory.fd,
    ...(workspace.keep === undefined ? {} : { keep: workspace.keep }),
    ...(nic === undefined ? {} : { nic }),
    ...(memoryReady === undefined ? {} : { memoryReady }),
    ...(template === undefined ? {} : { snapshot: snapshotOf(template.snapshot, mapped), diskLimits }),
  };
}

/** If a VM has a copy of the RAM, the copy includes the changes. */
function snapshotOf({ difference, ...snapshot }: VmSnapshot, mapped: Prepared['mapped']) {
  if (mapped === undefined) return snapshot;
  return { ...snapshot, memoryPath: mapped.path, ...(difference && { difference }) };
}
