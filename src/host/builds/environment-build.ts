/** Builds Dockerfiles with this machine's VMs and images; joins `dockerfile` and `image`. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Base, BaseDisk } from '../../artifacts/dockerfile/base.ts';
import { type BuildParts, type BuildRequest, type Built, buildDockerfile } from '../../artifacts/dockerfile/build.ts';
import { BuildCache } from '../../artifacts/dockerfile/cache.ts';
import { EMPTY_CONFIG } from '../../artifacts/dockerfile/evaluate.ts';
import { STAGE_VM_DEFAULTS } from '../../artifacts/dockerfile/limits.ts';
import { readyMadeDir } from '../../artifacts/ready-made.ts';
import { systemClock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import { plain } from '../../base/text/plain.ts';
import { MIB } from '../../base/units.ts';
import type { BuildEvent } from '../../sandbox/contract/contents.ts';
import type { BuilderVms } from '../runtime/image-builder.ts';
import type { Environment, Images, ImagesContext, PulledImage, Reference } from '../runtime/images.ts';
import { openToolVms, parseReference } from '../runtime/images.ts';
import { type StageVmOptions, startStageVm } from './stage-vm.ts';

export interface DockerfileBuild {
  readonly request: BuildRequest;
  readonly vm: StageVmOptions;
  /** Name in the image list; `null` for an unnamed image. */
  readonly name: Reference | null;
  onEvent(event: BuildEvent): void;
  /** Throws for an image that FROM may not name. Default: all may be. */
  readonly checkBase?: (reference: Reference) => void;
  /** Whether this host logs in at a registry. Default: wherever it has a login. */
  readonly mayLogIn?: (host: string) => boolean;
}

export interface BuiltEnvironment extends PulledImage {
  readonly warnings: Built['warnings'];
  readonly steps: Built['steps'];
}

/** @throws DockerfileError, OciError, ImageError */
export async function buildEnvironment(
  context: ImagesContext,
  images: Images,
  { request, vm, name, onEvent, checkBase, mayLogIn }: DockerfileBuild,
): Promise<BuiltEnvironment> {
  const { signal, home } = context;
  let vms: Promise<BuilderVms> | undefined;
  const openVms = (): Promise<BuilderVms> => {
    vms ??= openToolVms(context);
    return vms;
  };
  const parts: BuildParts = {
    architecture: images.architecture,
    diskBytes: vm.diskMib * MIB,
    cache: new BuildCache(join(home.cacheDir, 'dockerfile')),
    base: async (source): Promise<Base> => {
      if (source.kind === 'agent') {
        const { artifacts } = await context.runtime();
        const disk = {
          kind: 'system',
          path: '',
          digest: `sha256:${artifacts.rootImageDigest}`,
          hasUser: true,
        } as const;
        return { disk, config: EMPTY_CONFIG };
      }
      if (source.kind === 'ready-made') {
        const { image, environment } = await buildReadyMade(context, images, source.name);
        const config = { ...image.config, user: EMPTY_CONFIG.user, workdir: EMPTY_CONFIG.workdir };
        return { disk: { ...fileDisk(environment), hasUser: true }, config };
      }
      const reference = parseReference(source.reference, process.cwd());
      checkBase?.(reference);
      const { image, environment } = await images.pull(reference, 'missing', signal, mayLogIn);
      return { disk: fileDisk(environment), config: image.config };
    },
    startVm: async (disks, stop) => await startStageVm(await openVms(), vm, disks, stop),
    hasEnvironment: (key) => images.hasBuilt(key),
    environmentPath: (key) => images.placeForBuild(key),
    keepEnvironment: (key, path, stop) => images.keepBuilt(key, path, stop),
    onEvent,
  };
  const built = await buildDockerfile(parts, request, signal);
  const added = await images.addBuilt(built.key, built.config, name, signal);
  return { ...added, warnings: built.warnings, steps: built.steps };
}

function fileDisk({ image, digest }: Environment): BaseDisk {
  return { kind: 'file', path: image, digest };
}

/**
 * Builds an environment that NeuroVisor ships, and its base. Reuses one that was built before.
 * @throws DockerfileError, OciError, ImageError
 */
export async function buildReadyMade(context: ImagesContext, images: Images, name: string): Promise<PulledImage> {
  const { progress } = context;
  const step = `environment-${name}`;
  const startedAtMs = systemClock.now();
  const dir = readyMadeDir(name);
  const dockerfilePath = join(dir, 'Dockerfile');
  const request = {
    dockerfile: await readFile(dockerfilePath),
    dockerfilePath,
    contextDir: dir,
    buildArgs: {},
    target: null,
    secrets: new Map<string, Uint8Array>(),
    noCache: false,
  };
  let hasStarted = false;
  const onEvent = (event: BuildEvent): void => {
    const detail = detailOf(event);
    if (detail === '') return;
    if (!hasStarted) {
      progress({ kind: 'start', step, title: `Build the environment ${name}` });
    }
    hasStarted = true;
    progress({ kind: 'update', step, detail });
  };
  try {
    const vm = { ...STAGE_VM_DEFAULTS, network: null };
    const reference = parseReference(`neurovisor/${name}`, dir);
    const build = { request, vm, name: reference, onEvent };
    const built = await buildEnvironment(context, images, build);
    const durationMs = systemClock.now() - startedAtMs;
    progress({ kind: 'done', step, cached: !hasStarted, durationMs });
    return built;
  } catch (error) {
    progress({ kind: 'failed', step, message: describeError(error) });
    throw error;
  }
}

/** One line of progress; empty if there is nothing new. Output is hostile. */
function detailOf(event: BuildEvent): string {
  if (event.kind === 'pack') return 'write the disk';
  if (event.kind === 'step') return event.cached ? '' : plain(event.text);
  if (event.kind !== 'output') return '';
  return plain(Buffer.from(event.chunk).toString('utf8').trim().split('\n').at(-1) ?? '').slice(0, 200);
}
