/** What a tenant uses. */
import type { SandboxInfo } from '../../sandbox/contract/control.ts';

/** Kinds of what a tenant has on the disk: all that `--storage` counts. */
export const STORAGE_KINDS = ['snapshots', 'pauses', 'disks', 'volumes', 'templates', 'uploads', 'events'] as const;
export type StorageKind = (typeof STORAGE_KINDS)[number];
/** Bytes by kind. */
export type StorageUse = Readonly<Record<StorageKind, number>>;

export interface TenantUse {
  /** Those that have not ended. */
  readonly sandboxes: number;
  readonly memoryMib: number;
  /** The sum of `storage`. */
  readonly storageBytes: number;
  readonly storage: StorageUse;
}

export const sumOf = (use: Partial<StorageUse>): number => Object.values(use).reduce((sum, bytes) => sum + bytes, 0);

type Sized = Pick<SandboxInfo, 'pausedTo' | 'memoryMib' | 'memoryMaxMib' | 'diskMib'>;

/** What a sandbox counts with: the most that it can grow to, or nothing while it is on disk, as a pause. */
export function countedSize(info: Sized): { readonly memoryMib: number; readonly diskMib: number } {
  if (info.pausedTo === 'disk' || info.pausedTo === 'disk-only') return { memoryMib: 0, diskMib: 0 };
  return { memoryMib: info.memoryMaxMib ?? info.memoryMib, diskMib: info.diskMib };
}
