/** The labels of saves, and what starts from saves hold (types only). */
import type { SnapshotInfo } from '../contract/control.ts';
import type { CloneSource, StartSource } from '../contract/parts.ts';
import type { TemplateSpec } from '../contract/spec.ts';
import type { SnapshotRow } from '../store/snapshot.ts';

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
