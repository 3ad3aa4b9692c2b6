import { join } from 'node:path';
import { BuildCache } from '../../artifacts/dockerfile/cache.ts';
import type { Home } from '../../base/home.ts';
import { clearPackages } from '../../egress/packages/gateway.ts';

/** Removes steps of Dockerfiles and files of packages, which the next use makes or fetches again. */
export async function clearCaches({ cacheDir }: Pick<Home, 'cacheDir'>): Promise<void> {
  const steps = new BuildCache(join(cacheDir, 'dockerfile'), 0);
  await steps.make();
  await steps.enforceBound(new Set());
  await clearPackages(cacheDir);
}
