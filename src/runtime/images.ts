/** Opens the images of this machine. What pulling needs is installed, and a VM can be started, only when a pull needs it. */
import { availableParallelism } from 'node:os';
import type { Log } from '../base/log.ts';
import type { Progress } from '../base/progress.ts';
import type { Home } from '../home.ts';
import { prepareBuilderTools } from '../image/builder-tools.ts';
import {
  ENVIRONMENT_PACKAGES,
  installHostPackages,
  missingHostPackages,
} from '../image/host-packages.ts';
import { withSetupLock } from '../image/lock.ts';
import type { ImageBuilder } from '../oci/builder.ts';
import { OciError } from '../oci/errors.ts';
import { IMAGE_LIMITS, Images } from '../oci/images.ts';
import { makeImageBuilder } from './image-builder.ts';
import { type Runtime, SOURCE_DIR } from './runtime.ts';

export type { StoredImage } from '../oci/catalog.ts';
export { type Environment, Images, type PulledImage, type Removed } from '../oci/images.ts';
export { parseReference, type Reference } from '../oci/reference.ts';

export interface ImagesContext {
  readonly home: Pick<Home, 'cacheDir' | 'runDir'>;
  readonly progress: Progress;
  readonly signal: AbortSignal;
  readonly log: Log;
  /** Of the cache of images, bytes. */
  readonly quotaBytes: number;
  /** The runtime that starts the VMs; called when the first layer is unpacked. */
  readonly runtime: () => Promise<Runtime>;
}

/** Architecture of this machine, as images call it. */
const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' };

export function openImages(context: ImagesContext): Images {
  const { home, progress, quotaBytes } = context;
  return new Images({
    cacheDir: home.cacheDir,
    architecture: ARCHITECTURES[process.arch] ?? process.arch,
    builder: lazyBuilder(context),
    progress,
    limits: { ...IMAGE_LIMITS, quotaBytes },
  });
}

/** Installs the host packages that a pull needs, such as skopeo. @throws ImageError */
export async function preparePulls(context: ImagesContext): Promise<void> {
  const missing = await missingHostPackages(ENVIRONMENT_PACKAGES);
  await installHostPackages(context, missing);
}

function lazyBuilder(context: ImagesContext): ImageBuilder {
  let builder: Promise<ImageBuilder> | undefined;
  const open = (): Promise<ImageBuilder> => {
    builder ??= openBuilder(context);
    return builder;
  };
  return {
    layer: async (...job) => await (await open()).layer(...job),
    merge: async (...job) => await (await open()).merge(...job),
  };
}

/** The VMs that unpack layers. @throws ImageError, OciError */
export async function openBuilder(context: ImagesContext): Promise<ImageBuilder> {
  const { home, progress, signal, log } = context;
  const setup = { cacheDir: home.cacheDir, sourceDir: SOURCE_DIR, progress, signal, log };
  const tools = await withSetupLock(setup, () => prepareBuilderTools(setup));
  const runtime = await context.runtime();
  if (runtime.driver.accelerator === 'fake') {
    throw new OciError('build_failed', 'images are built in VMs, and this host has none');
  }
  return makeImageBuilder({
    start: (options, stop, replace) => runtime.startVm(options, stop, replace),
    runDir: runtime.home.runDir,
    toolsPath: tools.path,
    hostCpus: availableParallelism(),
  });
}
