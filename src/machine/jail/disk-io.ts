/**
 * The host disks that hold a VMM's files, and the VMM's I/O limits on them (I/O).
 *
 * A second line of defense: a VMM enforces the guest's disk limits itself, but a compromised VMM does not. The group's
 * limits are wider than the guest's, since the host reads ahead, splits large requests and writes a journal.
 */
import { existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { DiskLimits } from '../../base/request/disk-limits.ts';

export interface IoLimits {
  /** Whole disks by their kernel numbers, for example `8:0`. */
  readonly disks: readonly string[];
  /** Per disk, for reads and writes separately; `null`: no limit. */
  readonly bytesPerSecond: number | null;
  readonly opsPerSecond: number | null;
}

const BYTES_FACTOR = 2;
/** A guest's request has at most 1 MiB; the host may split it into requests of 128 KiB. */
const OPS_FACTOR = 8;

/** @param paths files; a missing one, as after a VM's end, has no disk */
export function ioLimits(paths: readonly string[], limits: DiskLimits): IoLimits {
  const { bytesPerSecond, opsPerSecond } = limits;
  return {
    disks: disksOf(paths),
    bytesPerSecond: bytesPerSecond === undefined ? null : bytesPerSecond * BYTES_FACTOR,
    opsPerSecond: opsPerSecond === undefined ? null : opsPerSecond * OPS_FACTOR,
  };
}

/** A file system without a disk of its own (tmpfs, overlayfs, btrfs) has nothing to limit. */
function disksOf(paths: readonly string[]): string[] {
  const found = paths.flatMap((path) => {
    const found = statSync(path, { bigint: true, throwIfNoEntry: false });
    return found === undefined ? [] : (diskOf(deviceName(found.dev)) ?? []);
  });
  return [...new Set(found)];
}

/** `major:minor`, by the layout of makedev(3). */
export function deviceName(dev: bigint): string {
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & 0xffff_f000n);
  const minor = (dev & 0xffn) | ((dev >> 12n) & 0xffff_ff00n);
  return `${major}:${minor}`;
}

/** The whole disk of a partition: limits apply to whole disks only. */
function diskOf(device: string): string | undefined {
  const path = join('/sys/dev/block', device);
  if (!existsSync(path)) return undefined;
  if (!existsSync(join(path, 'partition'))) return device;
  return readFileSync(join(realpathSync(path), '../dev'), 'latin1').trim();
}
