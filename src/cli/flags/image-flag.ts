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

export interface PythonFlags {
  readonly python?: string;
  readonly template?: string;
}

/** The option that names the image, as it was written; undefined: none of both. */
export function imageOptionText({ image, build }: ImageFlags & BuildFlags): string | undefined {
  if (build !== undefined) return `--build ${build}`;
  return image === undefined ? undefined : `--image ${image}`;
}

/**
 * `--python`: the official image of that version, unless the guest's own Python is meant.
 * @throws UsageError, RequirementsError
 */
export async function withPython<T extends ImageFlags & BuildFlags & PythonFlags>(flags: T): Promise<T> {
  const { python, template } = flags;
  if (python === undefined) return flags;
  const other = template === undefined ? imageOptionText(flags) : '--template';
  if (other !== undefined) throw new UsageError(`--python and ${other} are mutually exclusive`, 'omit one of them');
  const { pythonImage } = await import('../../artifacts/requirements/python.ts');
  const image = pythonImage(python);
  return image === null ? flags : { ...flags, image };
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
