/** RAM that clones share until they write to it. */
import type { MappedMemory, SharedNeed } from '../../../sandbox/contract/parts.ts';

/** How long memory without users stays: copying it again takes as long as half a start. */
export const UNUSED_MS_MAX = 60_000;

export interface RamFile {
  readonly path: string;
  /**
   * Verified digest of its content; files with equal digests share one memory. Omitted: a memory for this file alone.
   */
  readonly digest?: string | undefined;
}

/**
 * `sharers` names the group whose clones may share pages with each other: a clone can find out by timing what the
 * others read.
 */
export interface CloneRam {
  /** Copies a RAM file; the copy stays until it is dropped. One call at a time. */
  copy(file: RamFile): Promise<SharedCopy>;
  /** Opens a RAM file that does not change. */
  map(file: RamFile, sharers: string): Promise<MappedMemory>;
  /** Memory that the first of these sharers to map the file will add. Undefined if none, or it is there already. */
  needOf(file: RamFile, sharers: string): SharedNeed | undefined;
  /** Host memory in use, counted once for all that share it. Files count 0: the kernel can drop their pages. */
  readonly bytes: number;
  /** Expected further growth of memory in use. */
  readonly pendingBytes: number;
  /** The part of `bytes` in memory without users. */
  readonly unusedBytes: number;
  /** Drops memory without users; the next user gets a new copy. Resolves when it is free. */
  dropUnused(): Promise<void>;
  /** Call after the VMs have ended. Idempotent. */
  close(): Promise<void>;
}

/** A RAM file with copies for each group of sharers, until `drop` and the end of all users from `open`. */
export interface SharedCopy {
  open(sharers: string): Promise<MappedMemory>;
  /** See `CloneRam`. */
  needOf(sharers: string): SharedNeed | undefined;
  /** Call when nothing opens it any more. Its memory is freed now, or when its last user closes it. */
  drop(): Promise<void>;
}
