/** RAM that clones share until they write to it, as this host's VMM maps it. */
import type { MappedMemory } from '../../sandbox/parts.ts';
import type { VmmDriver } from '../../vmm/driver.ts';
import { SealedRam } from './sealed-ram.ts';
import { type SharedCopy, SharedRam } from './shared-ram.ts';

export interface CloneRam {
  /** Copies a RAM file; the copy stays until it is dropped. One call at a time. */
  copy(path: string): Promise<SharedCopy>;
  /** Opens a RAM file that does not change. */
  map(path: string): Promise<MappedMemory>;
  /** Call after the VMs have ended. Idempotent. */
  close(): Promise<void>;
}

/** @param runDir on the file system of the jails */
export function openCloneRam({ name }: Pick<VmmDriver, 'name'>, runDir: string): CloneRam {
  // Firecracker opens a file by its path in the jail, read-only; QEMU gets a descriptor that it can write.
  return name === 'qemu' ? new SealedRam() : new SharedRam(runDir);
}
