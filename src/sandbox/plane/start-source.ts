/** What VMs start from: the files of a save, with the copies that read them. */
import type { VmSnapshot } from '../../machine/vmm/driver.ts';
import type { DiskSource, StartSource } from '../contract/parts.ts';
import type { SnapshotPaths } from '../store/snapshot.ts';
import type { Copies } from './copies.ts';
import type { ReadFiles } from './sealed-saves.ts';
import type { RamMapper } from './snapshot-lease.ts';

/**
 * @param snapshot `null`: a VM boots from the disk
 * @param paths `ram` is the base, if the snapshot has a difference
 * @param ready resolves when the files are written or verified; omitted if they are complete
 * @param reads default: the files are plain
 */
export function startSource(
  copies: Copies,
  snapshot: VmSnapshot | null,
  { ram, disk, environment }: Omit<SnapshotPaths, 'state' | 'difference' | 'base'>,
  mapper: RamMapper,
  ready?: Promise<void>,
  reads: ReadFiles['copies'] = copies,
): StartSource {
  const disks: DiskSource = {
    copyDisk: (to) => reads.cloneDisk(disk, to),
    ...(environment === undefined ? {} : { linkEnvironment: (to: string) => copies.linkFile(environment, to) }),
  };
  if (snapshot === null || ram === undefined) return disks;
  const { difference } = snapshot;
  return {
    ...disks,
    snapshot,
    copyMemory: async (to) => {
      await reads.fillMemory(ram, to);
      await ready;
      if (difference !== undefined) await copies.applyDifference(difference, to);
    },
    ...(ready === undefined ? {} : { ready }),
    ...mapper,
  };
}

/**
 * @param digest digest of the RAM, if known
 * @param isBase whether saves may keep the RAM as their base
 * @returns an empty object if VMs get copies
 */
export function ramMapper(
  { mapMemory, sharedNeed }: Pick<Copies, 'mapMemory' | 'sharedNeed'>,
  path: string | undefined,
  { digest, isBase }: { readonly digest?: string | undefined; readonly isBase: boolean },
): RamMapper {
  if (path === undefined || mapMemory === undefined) return {};
  return {
    mapMemory: async (sharers) => {
      const { base, ...mapped } = await mapMemory(path, sharers, digest);
      return isBase && base !== undefined ? { ...mapped, base } : mapped;
    },
    sharedNeed: (sharers) => sharedNeed?.(path, sharers, digest),
  };
}
