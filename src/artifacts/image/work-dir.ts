/**
 * Directories in which artifacts are built. Each is locked by its builder (flock(2) on the directory), so that the next
 * builder recognizes and removes those of killed builds.
 */
import { mkdir, mkdtemp, open, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { errorCode } from '../../base/errors.ts';
import { tryLockExclusive } from '../../sys/file.ts';

export interface WorkDir {
  readonly path: string;
  remove(): Promise<void>;
}

const parentOf = (cacheDir: string): string => join(cacheDir, 'tmp');

export async function makeWorkDir(cacheDir: string, kind: string): Promise<WorkDir> {
  const parent = parentOf(cacheDir);
  await mkdir(parent, { recursive: true });
  for (;;) {
    const path = await mkdtemp(join(parent, `${kind}-`));
    const release = await lockDir(path);
    // `null` if another process took it for a leftover before it was locked.
    if (release === null) continue;
    return {
      path,
      async remove() {
        await removeTree(path);
        await release();
      },
    };
  }
}

export async function removeLeftovers(cacheDir: string): Promise<void> {
  for (const name of await namesOf(parentOf(cacheDir))) {
    const path = join(parentOf(cacheDir), name);
    const release = await lockDir(path);
    if (release === null) continue;
    await removeTree(path);
    await release();
  }
}

/** @returns `null` if it is locked, or gone */
async function lockDir(path: string): Promise<(() => Promise<void>) | null> {
  const file = await unlessGone(() => open(path, 'r'));
  if (file === null) return null;
  if (tryLockExclusive(file.fd) && (await file.stat()).nlink > 0) return () => file.close();
  await file.close();
  return null;
}

const namesOf = async (dir: string): Promise<string[]> => (await unlessGone(() => readdir(dir))) ?? [];

async function unlessGone<T>(work: () => Promise<T>): Promise<T | null> {
  try {
    return await work();
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return null;
    throw error;
  }
}

async function removeTree(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true, maxRetries: 3 });
}
