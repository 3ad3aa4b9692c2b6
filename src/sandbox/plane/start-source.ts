/** What VMs start from: the files of a save, with the copies that read them. Labels of saves, and what their users hold. */
import type { VmSnapshot } from '../../machine/vmm/driver.ts';
import type { SnapshotInfo } from '../contract/control.ts';
import type { CloneSource, DiskSource, MadeFrom, StartSource } from '../contract/parts.ts';
import type { TemplateSpec } from '../contract/spec.ts';
import type { SnapshotPaths, SnapshotRow } from '../store/snapshot.ts';
import type { Copies } from './copies.ts';
import type { ReadFiles } from './sealed-saves.ts';

/** What a snapshot has of its own. */
export interface SnapshotLabel {
  readonly name: string | null;
  /** The sandbox's. */
  readonly annotations: SnapshotInfo['annotations'];
}

/** Of a pause. */
export interface PauseLabel extends Pick<SnapshotLabel, 'annotations'> {
  readonly isDiskOnly: boolean;
}

/** What is saved, or used of what was saved. */
export type SaveExtent = 'all' | 'disk';

/** `files`: the disk, over whatever root image this host has. */
export type OpenExtent = SaveExtent | 'files';

export type RamMapper = Pick<CloneSource, 'mapMemory' | 'sharedNeed'>;

/** Keeps a clone source usable until its release. */
export interface ForkLease extends AsyncDisposable {
  readonly source: StartSource;
  /** Idempotent. The source must not be used afterwards. */
  release(): Promise<void>;
}

export interface SnapshotLease extends ForkLease {
  readonly row: SnapshotRow;
  readonly spec: TemplateSpec;
  /** What a start from it gives, or fails with: if its files are damaged, with that. @throws StoreError `snapshot_damaged` */
  orDamage<T>(starting: Promise<T>): Promise<T>;
}

/**
 * @param snapshot `null`: a VM boots from the disk
 * @param paths `ram` is the base, if the snapshot has a difference
 * @param ready resolves when the files are written or verified; omitted if they are complete
 * @param from default: the files are plain, and the VM is of this version
 */
export function startSource(
  copies: Copies,
  snapshot: VmSnapshot | null,
  { ram, disk, environment }: Omit<SnapshotPaths, 'state' | 'difference' | 'base'>,
  mapper: RamMapper,
  ready?: Promise<void>,
  { reads = copies, madeFrom }: { reads?: ReadFiles['copies'] | undefined; madeFrom?: MadeFrom | undefined } = {},
): StartSource {
  const disks: DiskSource = {
    ...(madeFrom === undefined ? {} : { madeFrom }),
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
