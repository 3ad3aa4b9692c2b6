/** Files that were named on the command line: one that can't be used is a wrong word. */
import { errorCode } from '../../base/errors.ts';
import { UsageError } from '../failure.ts';

/** What is wrong with the name; others (a full disk, an I/O error) are not. */
const WRONG: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file or directory',
  ENOTDIR: 'a part of it is no directory',
  EISDIR: 'it is a directory',
  EACCES: 'this user may not',
  EPERM: 'this user may not',
  EROFS: 'it is on a read-only file system',
  ELOOP: 'its links lead in a circle',
  ENAMETOOLONG: 'the name is too long',
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
