/** Copies between files and memory, which the composition root provides (types only). */
import type { RamDifference } from '../../machine/vmm/driver.ts';
import type { GuestMemory, MappedMemory, SharedNeed } from '../contract/parts.ts';

/** `Copies` that encrypt and decrypt; see `sys/sealed-file.ts`. */
export interface SealedCopies {
  seal(from: string, to: string, key: Uint8Array): Promise<void>;
  /** Into a new file. */
  unsealNew(from: string, to: string, key: Uint8Array): Promise<void>;
  /** Into an existing file of the original's size, or an empty one. */
  unsealInto(from: string, to: string, key: Uint8Array): Promise<void>;
}

/** Copies RAM and disks. Holes and zeros are equivalent. */
export interface Copies extends SealedCopies {
  /** Copies a VM's memory into a new file, without zeros. */
  keepMemory(from: string, to: string): Promise<void>;
  /** Copies kept memory into zeroed memory of the same size. */
  fillMemory(from: string, to: string): Promise<void>;
  /** Copies a VM's memory into other memory; zeros take no space there. */
  holdMemory(from: string, to: string): Promise<void>;
  /** Copies into a new file; shares blocks if the file system can. */
  cloneDisk(from: string, to: string): Promise<void>;
  /** Links a file that is never written to another, new name. */
  linkFile(from: string, to: string): Promise<void>;
  makeMemory(bytes: number): GuestMemory;
  /** Creates an empty file in memory, which grows as it is written. */
  makeScratch(): GuestMemory;
  /** Applies the difference to memory that holds the RAM it is based on. */
  applyDifference(difference: RamDifference, to: string): Promise<void>;
  /**
   * Opens kept memory for VMs that map it. Omitted if this VMM maps none. @param digest the store's digest, if known
   */
  mapMemory?(path: string, sharers: string, digest?: string): Promise<MappedMemory>;
  /** See `CloneSource`. Omitted if mapped memory takes none. */
  sharedNeed?(path: string, sharers: string, digest?: string): SharedNeed | undefined;
  /** Mapped files are held in memory: a fork's RAM needs no file, and RAM that only one VM uses is better copied. */
  readonly holdsMapped?: boolean;
}
