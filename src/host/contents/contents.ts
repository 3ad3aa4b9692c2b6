/** What a home keeps beside sandboxes, in its files (I/O): `HomeContents` of this process. */
import { resolveHome } from '../../base/home.ts';
import type { Log } from '../../base/log.ts';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import { silentProgress } from '../../base/progress.ts';
import type { HomeContents, LongWork } from '../../sandbox/contract/contents.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { homeDisk } from './disk.ts';
import { homeImages } from './images.ts';
import { homeModels } from './models.ts';
import { homeTemplates } from './templates.ts';
import type { ContentsWorld } from './world.ts';

export interface ContentsParts {
  /** Of the home. */
  readonly config: { readonly home: string; readonly imageQuotaBytes: number };
  readonly log: Log;
  /** Ends all work. */
  readonly signal: AbortSignal;
  /** Reports work without a `LongWork`, such as the wait for a lock. Default: silent. */
  readonly progress?: LongWork['progress'];
  /** The VMs that make images and templates; called when the first is needed. */
  readonly runtime: () => Promise<Runtime>;
}

export function homeContents(parts: ContentsParts): HomeContents {
  const { config, log, signal, progress = silentProgress, runtime } = parts;
  const home = resolveHome(config.home);
  const world: ContentsWorld = {
    log,
    runtime,
    home,
    quotaBytes: config.imageQuotaBytes,
    context: (work) => ({
      cacheDir: home.cacheDir,
      sourceDir: PACKAGE_DIR,
      log,
      progress: work?.progress ?? progress,
      signal: work === undefined ? signal : AbortSignal.any([signal, work.signal]),
    }),
  };
  const images = homeImages(world);
  return { images, templates: homeTemplates(world), models: homeModels(world), disk: homeDisk(world, images) };
}
