/** `--build DIR`: the image of a new sandbox is built from the Dockerfile of a directory, before anything starts. */
import type { Cli } from '../cli.ts';
import type { BuildFlags, ImageFlags } from '../flags/image-flag.ts';

/**
 * The flags with the built image as `--image`, by its digest: nothing else names it.
 * @throws UsageError, DockerfileError, OciError, and their codes from a daemon
 */
export async function withBuiltImage<F extends ImageFlags & BuildFlags>(cli: Cli, flags: F): Promise<F> {
  const { build, ...rest } = flags;
  if (build === undefined) return flags;
  const { buildDirectory } = await import('./image-build.ts');
  const { image } = await buildDirectory(cli, build);
  // `build`, which is left out, is optional.
  return { ...rest, image: image.digest } as ImageFlags as F;
}
