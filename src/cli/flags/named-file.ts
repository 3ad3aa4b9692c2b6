/** Files that were named on the command line: one that can't be used is a wrong word. */
import { errorCode } from '../../base/errors.ts';
import { UsageError } from '../failure.ts';

/** What is wrong with the name; others (a full disk, an I/O error) are not. */
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

/** @throws UsageError with the path, instead of an error of Node's for a file */
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
