/** Leaves in a home what a build of a directory would leave, so that the next build of it needs no VM. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type BuildRequest, buildDockerfile } from '../../src/artifacts/dockerfile/build.ts';
import { BuildCache } from '../../src/artifacts/dockerfile/cache.ts';
import { silentLog } from '../../src/base/log.ts';
import { silentProgress } from '../../src/base/progress.ts';
import { GIB } from '../../src/base/units.ts';
import { openImages } from '../../src/host/runtime/images.ts';

const never = (): never => {
  throw new Error('a cached build needs none');
};
const { signal } = new AbortController();

export const imagesOf = (home: string) =>
  openImages({
    home: { cacheDir: join(home, 'cache'), runDir: join(home, 'run') },
    progress: silentProgress,
    signal,
    log: silentLog,
    quotaBytes: GIB,
    runtime: never,
  });

/** @param disk content of the image's disk. @param more fields of the request that differ from its default */
export async function keepBuilt(home: string, dir: string, disk: string, more: Partial<BuildRequest> = {}) {
  const store = imagesOf(home);
  const { key } = await buildDockerfile(
    {
      architecture: store.architecture,
      diskBytes: 0,
      cache: new BuildCache(join(home, 'cache/dockerfile')),
      base: never,
      startVm: never,
      hasEnvironment: async () => true,
      environmentPath: never,
      keepEnvironment: never,
      onEvent: () => undefined,
    },
    {
      dockerfile: readFileSync(join(dir, 'Dockerfile')),
      dockerfilePath: join(dir, 'Dockerfile'),
      contextDir: dir,
      buildArgs: {},
      target: null,
      secrets: new Map(),
      noCache: false,
      ...more,
    },
    signal,
  );
  const path = await store.placeForBuild(key);
  writeFileSync(path, disk);
  await store.keepBuilt(key, path, signal);
}
