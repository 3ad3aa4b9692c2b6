/**
 * Whether this machine builds the guest kernel and its init from source although the repository ships them: `setup
 * --build-kernel`. An empty file in the cache records the choice for later starts.
 */
import { access, mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ignore } from '../../base/ignore.ts';

export const BUILD_CHOICE = 'build-from-source';

export async function buildsFromSource(cacheDir: string): Promise<boolean> {
  try {
    await access(join(cacheDir, BUILD_CHOICE));
    return true;
  } catch (error) {
    ignore(error, 'the shipped kernel is the default');
    return false;
  }
}

export async function chooseBuilds(cacheDir: string, fromSource: boolean): Promise<void> {
  const path = join(cacheDir, BUILD_CHOICE);
  if (!fromSource) return await rm(path, { force: true });
  await mkdir(cacheDir, { recursive: true });
  await writeFile(path, '');
}
