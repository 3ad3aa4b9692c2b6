/**
 * A snapshot: one row and three files, or only the disk; one more with an environment.
 *
 *     ram, state, disk                    all RAM
 *     base, difference, state, disk       what a VM had changed in RAM that it shared, and that RAM, which others need, too
 *     disk                                no memory
 */
import { z } from 'zod';
import { digestSparse, digestWhole } from '../../sys/sparse-threads.ts';

/** Of the files that belong to one snapshot. */
export const SNAPSHOT_ROLES = ['ram', 'state', 'disk'] as const;
const DIFFERENCE_ROLES = ['difference', 'state', 'disk'] as const;
export type SnapshotRole = (typeof SNAPSHOT_ROLES)[number] | (typeof DIFFERENCE_ROLES)[number];
/** Something for each file of a snapshot. */
export interface PerFile {
  /** Absent, as `state`: only the disk was saved. */
  readonly ram?: string;
  /** Instead of `ram`: what changed in `base` (`vmm/ram-difference.ts`). */
  readonly difference?: string;
  readonly state?: string;
  readonly disk: string;
  /** RAM, never written to, and the same for many. */
  readonly base?: string;
  /** Large, never written to, and the same for many. */
  readonly environment?: string;
}
export type SnapshotPaths = PerFile;

/** The files of a snapshot besides an environment and a base. */
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
  /** The sandbox it was created from; it may be gone. */
  readonly sandboxId: string;
  /** The caller's JSON. */
  readonly specJson: string;
  /** `machineOf` of the VM. */
  readonly machine: string;
  /** Null: only the disk was saved. */
  readonly stateSha256: string | null;
  readonly kernelDigest: string;
  readonly rootImageDigest: string;
  /** `sha256:…` of the file of its environment; absent: it has none. */
  readonly environment?: string;
  /** Digest of the RAM that its difference belongs to; absent: it has all RAM, or none. */
  readonly base?: string;
}

export interface SnapshotRow extends NewSnapshot {
  readonly createdAtMs: number;
  /** Space on disk, without that of a base. */
  readonly bytes: number;
  /** Space of its base; 0: it has none. */
  readonly baseBytes: number;
  /** Digest of each file. */
  readonly files: PerFile;
}

/** A row of the query, with the digests by role as JSON. */
export const snapshotSchema = z.object({
  id: z.string(),
  name: z.string().nullable(),
  kind: z.enum(['snapshot', 'pause']),
  sandboxId: z.string(),
  specJson: z.string(),
  machine: z.string(),
  /** Empty: none. */
  stateSha256: z.string().transform((text) => (text === '' ? null : text)),
  kernelDigest: z.string(),
  rootImageDigest: z.string(),
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
 * Returns the plain SHA-256 of a file without holes (of the state, the VMM's driver also checks it), or `digestSparse` of
 * RAM and disk.
 */
export function digestOf(role: SnapshotRole, path: string): Promise<string> {
  return role === 'state' || role === 'difference' ? digestWhole(path) : digestSparse(path);
}
