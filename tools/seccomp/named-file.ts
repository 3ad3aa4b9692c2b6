/** Files named on the command line: a file that cannot be used is a usage error. */
import { errorCode } from '../../src/base/errors.ts';
import { UsageError } from '../../src/cli/failure.ts';

/** Faults of the name. Others (a full disk, an I/O error) are not usage errors. */
const WRONG: Readonly<Record<string, string>> = {
  ENOENT: 'no such file or directory',
  ENOTDIR: 'not a directory',
  EISDIR: 'is a directory',
  EACCES: 'permission denied',
  EPERM: 'operation not permitted',
  EROFS: 'read-only file system',
  ELOOP: 'too many levels of symbolic links',
  ENAMETOOLONG: 'file name too long',
};

/** @throws UsageError with the path, for such an error of Node's */
export async function namedFile<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    const why = WRONG[errorCode(error) ?? ''];
    const path = error instanceof Error && 'path' in error ? error.path : undefined;
    if (why === undefined || typeof path !== 'string') throw error;
    throw new UsageError(`${path}: ${why}`, 'check the path');
  }
}
