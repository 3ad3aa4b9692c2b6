/**
 * The directory that jails are made in must be nobody else's: the jailer works there as root, and old ones follow
 * symbolic links (CVE-2026-1386).
 */
import { lstat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { describeError } from '../../../base/errors.ts';
import { VmmError } from '../../errors.ts';

const GROUP_AND_OTHERS = 0o077;
const WRITABLE_BY_OTHERS = 0o022;
const STICKY = 0o1000;

/**
 * @param dir absolute. It is a directory of ours, 0700, and on the way to it there is no symbolic link and no
 * directory where another user could put one.
 * @throws VmmError `vmm_start_failed` that says which and why
 */
export async function checkChrootBase(dir: string): Promise<void> {
  const owners = new Set([0, process.geteuid?.() ?? 0]);
  for (let path = dir; ; path = dirname(path)) {
    const found = await lstat(path).catch((error: unknown) => {
      throw unsafe(path, describeError(error));
    });
    if (found.isSymbolicLink()) throw unsafe(path, 'it is a symbolic link');
    if (!found.isDirectory()) throw unsafe(path, 'it is not a directory');
    if (!owners.has(found.uid)) throw unsafe(path, `it belongs to user ${found.uid}`);
    if (path === dir && (found.mode & GROUP_AND_OTHERS) !== 0) {
      throw unsafe(path, 'others may enter it');
    }
    // In a sticky directory nobody can take away what is ours.
    if ((found.mode & WRITABLE_BY_OTHERS) !== 0 && (found.mode & STICKY) === 0) {
      throw unsafe(path, 'others may write to it');
    }
    if (path === '/') return;
  }
}

function unsafe(path: string, cause: string): VmmError {
  return new VmmError('vmm_start_failed', `jails can't be made in or below ${path}`, {
    cause,
    remedy: 'make a directory of root for them with mode 0700, and name it without symbolic links',
  });
}
