/** Builds Dockerfiles with this machine's VMs and images: the part that joins both. */
import { join } from 'node:path';
import { MIB } from '../base/units.ts';
import type { BuilderVms } from '../runtime/image-builder.ts';
import type { Images, ImagesContext, PulledImage, Reference } from '../runtime/images.ts';
import { openToolVms, parseReference } from '../runtime/images.ts';
import {
  type BuildEvent,
  type BuildParts,
  type BuildRequest,
  type Built,
  buildDockerfile,
} from './build.ts';
import { BuildCache } from './cache.ts';
import { EMPTY_CONFIG } from './evaluate.ts';
import type { Base } from './plan.ts';
import { type StageVmOptions, startStageVm } from './vm.ts';

export interface DockerfileBuild {
  readonly request: BuildRequest;
  readonly vm: StageVmOptions;
  /** The result is listed under it; null: without a name. */
  readonly name: Reference | null;
  onEvent(event: BuildEvent): void;
}

export interface BuiltEnvironment extends PulledImage {
  readonly warnings: Built['warnings'];
  readonly steps: Built['steps'];
}

/** @throws DockerfileError, OciError, ImageError */
export async function buildEnvironment(
  context: ImagesContext,
  images: Images,
  { request, vm, name, onEvent }: DockerfileBuild,
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
        } as const;
        return { disk, config: EMPTY_CONFIG };
      }
      const reference = parseReference(source.reference, process.cwd());
      const { image, environment } = await images.pull(reference, 'missing', signal);
      return {
        disk: { kind: 'file', path: environment.image, digest: environment.digest },
        config: image.config,
      };
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
