/**
 * The disks of the host that a VMM's files lie on, and how much of them it may have (io).
 *
 * A second belt: a VMM holds its guest to the limits of its disks by itself, and one that was taken over does not.
 * So the group's limits are wider than the guest's, for what the host makes of a request: it reads ahead, splits
 * large ones, and writes its journal.
 */
import { existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { DiskLimits } from '../base/disk-limits.ts';

export interface IoLimits {
  /** Whole disks as the kernel names them, e.g. `8:0`. */
  readonly disks: readonly string[];
  /** Of each disk, for reads and for writes apart; null: no limit. */
  readonly bytesPerSecond: number | null;
  readonly opsPerSecond: number | null;
}

/** Reads ahead, journal. */
const BYTES_FACTOR = 2;
/** A request of a guest is of 1 MiB at most, one of a disk of 128 KiB at least where it may be so large. */
const OPS_FACTOR = 8;

/** @param paths of files; one that is gone, as after a VM's end, has no disk */
export function ioLimits(paths: readonly string[], limits: DiskLimits): IoLimits {
  const { bytesPerSecond, opsPerSecond } = limits;
  return {
    disks: disksOf(paths),
    bytesPerSecond: bytesPerSecond === undefined ? null : bytesPerSecond * BYTES_FACTOR,
    opsPerSecond: opsPerSecond === undefined ? null : opsPerSecond * OPS_FACTOR,
  };
}

/** A file system without a disk of its own (tmpfs, overlayfs, btrfs) has none that could be limited. */
function disksOf(paths: readonly string[]): string[] {
  const found = paths.flatMap((path) => {
    const found = statSync(path, { bigint: true, throwIfNoEntry: false });
    return found === undefined ? [] : (diskOf(deviceName(found.dev)) ?? []);
  });
  return [...new Set(found)];
}

/** makedev(3): 12 bits of the major number above 8 of the minor, and the rest above both. */
export function deviceName(dev: bigint): string {
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & 0xffff_f000n);
  const minor = (dev & 0xffn) | ((dev >> 12n) & 0xffff_ff00n);
  return `${major}:${minor}`;
}

/** Limits are of whole disks: of a partition, the one that it is a part of. */
function diskOf(device: string): string | undefined {
  const path = join('/sys/dev/block', device);
  if (!existsSync(path)) return undefined;
  if (!existsSync(join(path, 'partition'))) return device;
  return readFileSync(join(realpathSync(path), '../dev'), 'latin1').trim();
}
