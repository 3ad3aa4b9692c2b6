/** Names of a directory's entries (io). */
import { readdir } from 'node:fs/promises';
import { errorCode } from './errors.ts';

/** In no order. A missing directory has none. */
export async function namesIn(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return [];
    throw error;
  }
}
