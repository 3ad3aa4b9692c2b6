/**
 * The base directory of jails must be private: the jailer works there as root, and old versions follow symbolic links
 * (CVE-2026-1386).
 */
import { lstat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { describeError } from '../../../../base/errors.ts';
import { VmmError } from '../../errors.ts';

const GROUP_AND_OTHERS = 0o077;
const WRITABLE_BY_OTHERS = 0o022;
const STICKY = 0o1000;

/**
 * Checks that `dir` is our directory with mode 0700, and that its path has no symbolic link and no directory where
 * another user could put one.
 * @param dir absolute
 * @throws VmmError `vmm_start_failed` that names the directory and the fault
 */
export async function checkChrootBase(dir: string): Promise<void> {
  const owners = new Set([0, process.geteuid?.() ?? 0]);
  for (let path = dir; ; path = dirname(path)) {
    const found = await lstat(path).catch((error: unknown) => {
      throw unsafe(path, describeError(error));
    });
    if (found.isSymbolicLink()) throw unsafe(path, 'it is a symbolic link');
    if (!found.isDirectory()) throw unsafe(path, 'it is not a directory');
    if (!owners.has(found.uid)) throw unsafe(path, `its owner is user ${found.uid}`);
    if (path === dir && (found.mode & GROUP_AND_OTHERS) !== 0) {
      throw unsafe(path, 'other users can enter it');
    }
    // In a sticky directory other users can't remove our entries.
    if ((found.mode & WRITABLE_BY_OTHERS) !== 0 && (found.mode & STICKY) === 0) {
      throw unsafe(path, 'other users can write to it');
    }
    if (path === '/') return;
  }
}

function unsafe(path: string, cause: string): VmmError {
  return new VmmError('vmm_start_failed', `jails can't be created in or below ${path}`, {
    cause,
    remedy: 'Use a directory of root with mode 0700 and a path without symbolic links.',
  });
}
