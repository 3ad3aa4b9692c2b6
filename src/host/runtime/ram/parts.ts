/** RAM that clones share until they write to it. */
import type { MappedMemory, SharedNeed } from '../../../sandbox/contract/parts.ts';

/** Time that what has no users stays: copying it again takes as long as half a start. */
export const UNUSED_MS_MAX = 60_000;

export interface RamFile {
  readonly path: string;
  /** Of its content, verified; files with the same one are the same memory. Absent: a file for itself. */
  readonly digest?: string | undefined;
}

/** `sharers` names those whose clones may share pages with each other: a clone can find out by timing what the others read. */
export interface CloneRam {
  /** Copies a RAM file; the copy stays until it is dropped. One call at a time. */
  copy(file: RamFile): Promise<SharedCopy>;
  /** Opens a RAM file that does not change. */
  map(file: RamFile, sharers: string): Promise<MappedMemory>;
  /** What the first of these sharers to map the file will bring. Undefined: no memory, or it is there. */
  needOf(file: RamFile, sharers: string): SharedNeed | undefined;
  /** Host memory that it takes, once for all that share it. Files count 0: the kernel can drop their pages. */
  readonly bytes: number;
  /** What is in use is expected to take beyond that. */
  readonly pendingBytes: number;
  /** The part of `bytes` in memory without users. */
  readonly unusedBytes: number;
  /** Drops memory without users; the next user gets a new copy. Resolves when it is free. */
  dropUnused(): Promise<void>;
  /** Call after the VMs have ended. Idempotent. */
  close(): Promise<void>;
}

/** A RAM file of which there are copies, each for a group of sharers, until `drop` and the end of all that `open` gave out. */
export interface SharedCopy {
  open(sharers: string): Promise<MappedMemory>;
  /** As of `CloneRam`. */
  needOf(sharers: string): SharedNeed | undefined;
  /** Nothing opens it any more. What it holds goes now, or when its last user closes it. */
  drop(): Promise<void>;
}
