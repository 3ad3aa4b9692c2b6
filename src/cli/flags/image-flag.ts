/** `--image` and `--build`: the container image of a new sandbox. */
import { describeError, errorCode, remedyOf } from '../../base/errors.ts';
import type { Reference } from '../../host/runtime/images.ts';
import { UsageError } from '../failure.ts';

export interface ImageFlags {
  readonly image?: string;
}

export interface BuildFlags {
  /** Directory whose Dockerfile is built. */
  readonly build?: string;
}

/** The option that names the image, as it was written; undefined: none of both. */
export function imageOptionText({ image, build }: ImageFlags & BuildFlags): string | undefined {
  if (build !== undefined) return `--build ${build}`;
  return image === undefined ? undefined : `--image ${image}`;
}

/** @param name a path in it is relative to the working directory. @throws UsageError */
export async function readReference(name: string): Promise<Reference> {
  const { parseReference } = await import('../../host/runtime/images.ts');
  try {
    return parseReference(name, process.cwd());
  } catch (error) {
    if (errorCode(error) !== 'reference_invalid') throw error;
    throw new UsageError(describeError(error), remedyOf(error));
  }
}

/** The option of a request that is served in this process. @throws UsageError */
export async function imageRequest({ image }: ImageFlags): Promise<{ readonly image?: string }> {
  return image === undefined ? {} : { image: (await readReference(image)).text };
}
