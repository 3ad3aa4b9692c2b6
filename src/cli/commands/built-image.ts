/** `--build DIR`: the image of a new sandbox is built from the Dockerfile of a directory, before anything starts. */
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import type { BuildFlags, ImageFlags } from '../flags/image-flag.ts';

/**
 * Checked before anything is read or started: the daemon of another machine can't use what is built here.
 * @throws UsageError
 */
export function requireBuildHere({ config }: Pick<Cli, 'config'>, { build }: BuildFlags): void {
  if (build === undefined || config.daemonUrl === null) return;
  throw new UsageError(
    '--build needs a daemon of this machine, and NEUROVISOR_URL names another one',
    'unset NEUROVISOR_URL, or build and name the image on the machine of that daemon',
  );
}

/**
 * The flags with the built image as `--image`, by its digest: nothing else names it.
 * @throws UsageError, DockerfileError, OciError
 */
export async function withBuiltImage<F extends ImageFlags & BuildFlags>(cli: Cli, flags: F): Promise<F> {
  const { build, ...rest } = flags;
  if (build === undefined) return flags;
  const { buildDirectory } = await import('./image-build.ts');
  const { image } = await buildDirectory(cli, build);
  // `build`, which is left out, is optional.
  return { ...rest, image: image.digest } as ImageFlags as F;
}
