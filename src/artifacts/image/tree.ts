/** Walks over directory trees of a build. Symbolic links are not followed. */
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';

/** Sorted paths of the regular files below `dir` that match `wanted`. */
export async function filesUnder(dir: string, wanted: (path: string) => boolean): Promise<string[]> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .filter(wanted)
    .sort();
}

export async function removeDirectories(dir: string, name: string): Promise<void> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  for (const entry of entries) {
    if (entry.isDirectory() && entry.name === name) {
      await rm(join(entry.parentPath, entry.name), { recursive: true, force: true });
    }
  }
}
