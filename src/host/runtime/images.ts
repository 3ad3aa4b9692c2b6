/**
 * Opens this machine's images. The programs that a pull needs are installed, and a VM is started, only when a pull
 * needs them.
 */
import { availableParallelism } from 'node:os';
import { prepareBuilderTools } from '../../artifacts/image/builder-tools.ts';
import { ENVIRONMENT_PACKAGES, installHostPackages, missingHostPackages } from '../../artifacts/image/host-packages.ts';
import type { ImageBuilder } from '../../artifacts/oci/builder.ts';
import { OciError } from '../../artifacts/oci/errors.ts';
import { IMAGE_LIMITS, Images, type PulledImage } from '../../artifacts/oci/images.ts';
import { parseReference, type Reference } from '../../artifacts/oci/reference.ts';
import { CodedError } from '../../base/errors.ts';
import type { Home } from '../../base/home.ts';
import type { Log } from '../../base/log.ts';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import type { Progress } from '../../base/progress.ts';
import type { VmmDriver } from '../../machine/vmm/driver.ts';
import type { EnvironmentSource } from '../../sandbox/contract/environment.ts';
import { SandboxError, type SandboxErrorCode } from '../../sandbox/contract/errors.ts';
import { ENV_NAME } from '../../sandbox/contract/spec.ts';
import { type BuilderVms, makeImageBuilder } from './image-builder.ts';
import type { Artifacts } from './setup.ts';

export type { StoredImage } from '../../artifacts/oci/catalog.ts';
export {
  type Environment,
  Images,
  type PulledImage,
  type Removed,
} from '../../artifacts/oci/images.ts';
export { parseReference, type Reference } from '../../artifacts/oci/reference.ts';

export interface ImagesContext {
  readonly home: Pick<Home, 'cacheDir' | 'runDir'>;
  readonly progress: Progress;
  readonly signal: AbortSignal;
  readonly log: Log;
  /** Quota of the image cache in bytes. */
  readonly quotaBytes: number;
  /** Runtime that starts the VMs; called when the first layer is unpacked. */
  readonly runtime: () => Promise<BuilderRuntime>;
}

export interface BuilderRuntime {
  readonly driver: Pick<VmmDriver, 'accelerator'>;
  readonly home: Pick<Home, 'runDir'>;
  readonly artifacts: Pick<Artifacts, 'rootImageDigest'>;
  startVm: BuilderVms['start'];
}

/** Architecture of this machine in the image format's terms. */
const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' };

export function openImages(context: ImagesContext): Images {
  const { home, progress, quotaBytes } = context;
  return new Images({
    cacheDir: home.cacheDir,
    architecture: ARCHITECTURES[process.arch] ?? process.arch,
    builder: lazyBuilder(context),
    progress,
    limits: { ...IMAGE_LIMITS, quotaBytes },
    beforeFetch: () => preparePulls(context),
  });
}

/** Installs the host packages that a pull needs, such as skopeo. @throws ImageError */
export async function preparePulls(context: ImagesContext): Promise<void> {
  const missing = await missingHostPackages(ENVIRONMENT_PACKAGES);
  await installHostPackages(context, missing);
}

/** Codes that tell more than that the image can't be used. */
const CODES: Readonly<Record<string, SandboxErrorCode>> = {
  disk_full: 'disk_full',
  image_not_found: 'not_found',
  reference_invalid: 'spec_invalid',
};

/**
 * Finds the image, or pulls it.
 * @param image as `image pull` accepts it
 * @throws SandboxError `image_failed`, `not_found`, `disk_full`, `cancelled`; `spec_invalid` if it is no reference
 */
export async function resolveEnvironment(
  images: Images,
  image: string,
  options: {
    readonly signal: AbortSignal;
    readonly log: Log;
    /** False: archives, layouts and Docker's daemon are not read, but images already pulled from them are found. */
    readonly readsHost: boolean;
    /** Whether this host logs in at a registry. Default: wherever it has a login. */
    readonly mayLogIn?: ((host: string) => boolean) | undefined;
  },
): Promise<EnvironmentSource> {
  const { signal, log, readsHost, mayLogIn } = options;
  try {
    const reference = parseReference(image, process.cwd());
    const isFile = !['docker', 'stored'].includes(reference.transport);
    if (!readsHost && isFile) await requireKnown(images, reference);
    return environmentSource(await images.pull(reference, 'missing', signal, mayLogIn), reference.text, log);
  } catch (error) {
    if (!(error instanceof CodedError)) throw error;
    throw imageFailure(image, error);
  }
}

/** Explains to the caller of a sandbox why the image can't be used. */
export function imageFailure(image: string, error: CodedError): SandboxError {
  if (error.code === 'cancelled') return new SandboxError('cancelled', error.message);
  const code = CODES[error.code] ?? 'image_failed';
  const what = `the image ${image.slice(0, 200)} can't be used`;
  return new SandboxError(code, what, { cause: error });
}

/** @param image the complete reference */
export function environmentSource(
  { image: stored, environment: built }: PulledImage,
  image: string,
  log: Log,
): EnvironmentSource {
  const { image: path, env, ...rest } = built;
  const { exposedPorts, stopSignal } = stored.config;
  const names = { image, imageDigest: stored.digest };
  const usable = Object.entries(env).filter(([name]) => ENV_NAME.test(name));
  if (usable.length < Object.keys(env).length) {
    log.warn('variables of an image are left out: their names are not valid', names);
  }
  const kept = { env: Object.fromEntries(usable), exposedPorts, stopSignal };
  return { path, environment: { ...names, ...rest, ...kept } };
}

/** @throws OciError `image_not_found` */
async function requireKnown(images: Images, { text }: Reference): Promise<void> {
  if ((await images.list()).some(({ names }) => names.includes(text))) return;
  throw new OciError('image_not_found', `there is no image ${text} here`, {
    cause: 'a daemon reads no files of its machine for a request',
    remedy: `Pull it on the machine of the daemon: neurovisor image pull ${text}`,
  });
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
  return makeImageBuilder(await openToolVms(context));
}

/** VMs with the tools that build images. @throws ImageError, OciError */
export async function openToolVms(context: ImagesContext): Promise<BuilderVms> {
  const { home, progress, signal, log } = context;
  const setup = { cacheDir: home.cacheDir, sourceDir: PACKAGE_DIR, progress, signal, log };
  const tools = await prepareBuilderTools(setup);
  const runtime = await context.runtime();
  if (runtime.driver.accelerator === 'fake') {
    throw new OciError('build_failed', 'images are built in VMs, and this host has none');
  }
  return {
    start: (options, stop, replace) => runtime.startVm(options, stop, replace),
    runDir: runtime.home.runDir,
    toolsPath: tools.path,
    hostCpus: availableParallelism(),
  };
}
