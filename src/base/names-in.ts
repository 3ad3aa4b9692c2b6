/** Names of a directory's entries (I/O). */
import { readdir } from 'node:fs/promises';
import { ifThere } from './errors.ts';

/** Unordered. A missing directory has none. */
export async function namesIn(dir: string): Promise<string[]> {
  return (await ifThere(readdir(dir))) ?? [];
}
