/** Checks free disk space before a build, and explains a build that ran out of it. */
import { statfs } from 'node:fs/promises';
import { errorCode } from '../../base/errors.ts';
import { MIB } from '../../base/units.ts';
import { ImageError } from './errors.ts';

/**
 * @param directory existing directory on the file system that will be written
 * @throws ImageError `disk_full` if fewer than `neededBytes` are free for this user
 */
export async function requireSpace(directory: string, neededBytes: number, what: string): Promise<void> {
  const fs = await statfs(directory);
  const freeBytes = fs.bavail * fs.bsize;
  if (freeBytes < neededBytes) throw diskFull(directory, neededBytes, what, freeBytes);
}

/** True if a file system or a quota had no space. */
export function isDiskFull(error: unknown): boolean {
  const code = errorCode(error);
  return code === 'ENOSPC' || code === 'EDQUOT';
}

/** Converts ENOSPC and EDQUOT of a build to the error that names the needed size. */
export function explainFullDisk(error: unknown, directory: string, neededBytes: number, what: string): unknown {
  if (!isDiskFull(error)) return error;
  return diskFull(directory, neededBytes, what, undefined, error);
}

function diskFull(
  directory: string,
  neededBytes: number,
  what: string,
  freeBytes?: number,
  cause?: unknown,
): ImageError {
  const needed = `${Math.ceil(neededBytes / MIB)} MiB`;
  const free = freeBytes === undefined ? '' : `, only ${Math.floor(freeBytes / MIB)} MiB are free`;
  return new ImageError('disk_full', `${what}: needs ${needed} of disk space${free}`, {
    ...(cause === undefined ? {} : { cause }),
    remedy: `Free ${needed} on the filesystem of ${directory}, or set NEUROVISOR_HOME to a directory on a larger one.`,
  });
}
