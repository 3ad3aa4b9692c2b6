/** Gives a large read-only file another name, so that each of its users can remove its own. */
import { constants, copyFile, link, realpath, rm } from 'node:fs/promises';
import { errorCode } from '../base/errors.ts';
import { ignore } from '../base/ignore.ts';

/**
 * Creates `to`, a new name of the file `from`: a hard link, or if that is impossible (another file system, another
 * owner, an unlinked file) a copy, which shares blocks if the file system can.
 * @param from may be a descriptor's name in /proc
 */
export async function linkOrCopy(from: string, to: string): Promise<void> {
  try {
    await link(await realpath(from), to);
    return;
  } catch (error) {
    ignore(error, 'it is copied');
  }
  try {
    await copyFile(from, to, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
  } catch (error) {
    if (errorCode(error) !== 'EEXIST') await rm(to, { force: true });
    throw error;
  }
}
