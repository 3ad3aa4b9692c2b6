/** Creates the memory that clones share, in the form that this host's VMM maps. */
import type { VmmDriver } from '../../../machine/vmm/driver.ts';
import type { CloneRam } from './parts.ts';
import { SealedRam } from './sealed-ram.ts';
import { SharedRam } from './shared-ram.ts';

/** @param runDir on the file system of the jails */
export function openCloneRam({ name }: Pick<VmmDriver, 'name'>, runDir: string): CloneRam {
  // Firecracker opens a file by its path in the jail, read-only; QEMU gets a writable descriptor.
  return name === 'qemu' ? new SealedRam() : new SharedRam(runDir);
}
