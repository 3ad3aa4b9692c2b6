/** Names of a directory's entries (I/O). */
import { readdir } from 'node:fs/promises';
import { errorCode } from './errors.ts';

/** Unordered. A missing directory has none. */
export async function namesIn(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return [];
    throw error;
  }
}
