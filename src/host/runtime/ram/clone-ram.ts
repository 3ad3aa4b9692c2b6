/** Makes the memory that clones share as this host's VMM maps it. */
import type { VmmDriver } from '../../../machine/vmm/driver.ts';
import type { CloneRam } from './parts.ts';
import { SealedRam } from './sealed-ram.ts';
import { SharedRam } from './shared-ram.ts';

/** @param runDir on the file system of the jails */
export function openCloneRam({ name }: Pick<VmmDriver, 'name'>, runDir: string): CloneRam {
  // Firecracker opens a file by its path in the jail, read-only; QEMU gets a descriptor that it can write.
  return name === 'qemu' ? new SealedRam() : new SharedRam(runDir);
}
