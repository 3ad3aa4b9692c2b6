/** Computes a tenant's usage from the operator's view. */
import type { SandboxInfo, SnapshotInfo } from '../../sandbox/contract/control.ts';
import { ownerOf } from './owner.ts';

/** Counts like `TenantQuotas`, without what only the daemon knows: starts, and the space of pauses. */
export function usageOf(
  tenant: string,
  sandboxes: readonly SandboxInfo[],
  snapshots: readonly SnapshotInfo[],
): { readonly sandboxes: number; readonly memoryMib: number; readonly storageBytes: number } {
  const own = sandboxes.filter((info) => ownerOf(info) === tenant);
  return {
    sandboxes: own.length,
    memoryMib: own.reduce((sum, info) => sum + countedMib(info), 0),
    storageBytes: snapshots.filter((info) => ownerOf(info) === tenant).reduce((sum, { bytes }) => sum + bytes, 0),
  };
}

/** Memory in MiB that a sandbox counts with: the maximum it can grow to, or none while it is on disk. */
export function countedMib(info: Pick<SandboxInfo, 'pausedTo' | 'memoryMib' | 'memoryMaxMib'>): number {
  return info.pausedTo === 'disk' || info.pausedTo === 'disk-only' ? 0 : (info.memoryMaxMib ?? info.memoryMib);
}
