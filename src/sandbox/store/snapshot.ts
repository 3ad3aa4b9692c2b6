/**
 * A snapshot: one row and three files, or only the disk; one more with an environment.
 *
 *     ram, state, disk                    all RAM
 *     base, difference, state, disk       a VM's changes to shared RAM, and that RAM, which other snapshots need, too
 *     disk                                no memory
 */
import { z } from 'zod';
import { digestSparse, digestWhole } from '../../sys/sparse-threads.ts';

/** Files that belong to one snapshot alone. */
export const SNAPSHOT_ROLES = ['ram', 'state', 'disk'] as const;
const DIFFERENCE_ROLES = ['difference', 'state', 'disk'] as const;
export type SnapshotRole = (typeof SNAPSHOT_ROLES)[number] | (typeof DIFFERENCE_ROLES)[number];
export interface PerFile {
  /** Omitted, as is `state`, if only the disk was saved. */
  readonly ram?: string;
  /** Instead of `ram`: the changes to `base` (`vmm/ram-difference.ts`). */
  readonly difference?: string;
  readonly state?: string;
  readonly disk: string;
  /** RAM that is never written to and is common to many snapshots. */
  readonly base?: string;
  /** A large file that is never written to and is common to many snapshots. */
  readonly environment?: string;
}
export type SnapshotPaths = PerFile;

/** A snapshot's files besides its environment and base. */
export function rolesOf({ stateSha256, base }: Pick<NewSnapshot, 'stateSha256' | 'base'>): readonly SnapshotRole[] {
  if (stateSha256 === null) return ['disk'];
  return base === undefined ? SNAPSHOT_ROLES : DIFFERENCE_ROLES;
}

/** Properties of a snapshot that the caller provides. */
export interface NewSnapshot {
  /** `[a-z0-9]{20}`. */
  readonly id: string;
  readonly name: string | null;
  /** `pause`: belongs to the paused sandbox that names it, and is removed with it. */
  readonly kind: 'snapshot' | 'pause';
  /** The sandbox it was created from, which may have been removed. */
  readonly sandboxId: string;
  /** The caller's JSON. */
  readonly specJson: string;
  /** The VM's `machineOf`. */
  readonly machine: string;
  /** `null` if only the disk was saved. */
  readonly stateSha256: string | null;
  readonly kernelDigest: string;
  readonly rootImageDigest: string;
  /** Digest of its environment's file, `sha256:…`; omitted without an environment. */
  readonly environment?: string;
  /** Digest of the RAM that its difference is based on; omitted if it has all RAM, or none. */
  readonly base?: string;
  /** Id of the key that encrypts its own files, not base and environment (`owner-keys.ts`); default: they are plain. */
  readonly sealedBy?: string | null;
}

export interface SnapshotRow extends NewSnapshot {
  /** Version and commit of the program that made it; `null` in older rows. */
  readonly madeBy: string | null;
  readonly createdAtMs: number;
  /** Space on disk, without the base. */
  readonly bytes: number;
  /** Space of its base; 0 without a base. */
  readonly baseBytes: number;
  readonly files: PerFile;
}

/** A result row of the query, with the digests by role as JSON. */
export const snapshotSchema = z.object({
  id: z.string(),
  name: z.string().nullable(),
  kind: z.enum(['snapshot', 'pause']),
  sandboxId: z.string(),
  specJson: z.string(),
  machine: z.string(),
  /** Stored as an empty text if there is no state. */
  stateSha256: z.string().transform((text) => (text === '' ? null : text)),
  kernelDigest: z.string(),
  rootImageDigest: z.string(),
  madeBy: z.string().nullable(),
  sealedBy: z.string().nullable(),
  createdAtMs: z.number().int(),
  bytes: z.number().int(),
  baseBytes: z.number().int(),
  filesJson: z.string(),
});
const digest = z.string().regex(/^[0-9a-f]{64}$/);
export const filesSchema = z.object({
  ram: digest.exactOptional(),
  difference: digest.exactOptional(),
  state: digest.exactOptional(),
  disk: digest,
  base: digest.exactOptional(),
  environment: digest.exactOptional(),
});

/**
 * Returns the plain SHA-256 of a file without holes (the state, which the VMM's driver also checks), or
 * `digestSparse` of RAM and disk.
 */
export function digestOf(role: SnapshotRole, path: string): Promise<string> {
  return role === 'state' || role === 'difference' ? digestWhole(path) : digestSparse(path);
}
