/** The errors of the cache of images, for its user. */
import { errorCode } from '../../base/errors.ts';
import { GIB } from '../../base/units.ts';
import type { StoredImage } from './catalog.ts';
import { OciError } from './errors.ts';
import type { Reference } from './reference.ts';

/** A blob that the cache no longer has. */
export class MissingBlob extends Error {
  override name = 'MissingBlob';
}

export function notFound(text: string): OciError {
  return new OciError('image_not_found', `there is no image "${text.slice(0, 200)}" here`, {
    remedy: 'List the images with: neurovisor image ls',
  });
}

export function removedFiles({ text }: Reference): OciError {
  return new OciError('disk_full', `the files of ${text} were removed again`, {
    cause: 'another pull needs their room, or images were pruned',
    remedy: 'Pull it again, or set NEUROVISOR_IMAGE_QUOTA_GIB to more.',
  });
}

export function goneBuild({ names, digest }: StoredImage): OciError {
  return new OciError('image_not_found', `the disk of ${names.at(-1) ?? digest} was removed`, {
    cause: 'it was built here, and other images needed its room',
    remedy: 'Build it again, or set NEUROVISOR_IMAGE_QUOTA_GIB to more.',
  });
}

export function tooLarge(bytesMax: number): OciError {
  return new OciError('image_too_large', 'the image is too large', {
    cause: `unpacked, it has more than ${Math.floor(bytesMax / GIB)} GiB`,
    remedy: 'Use a smaller image.',
  });
}

export function explain(error: unknown, image: string, signal: AbortSignal): unknown {
  if (error instanceof OciError || error instanceof MissingBlob) return error;
  if (signal.aborted) {
    return new OciError('cancelled', `pulling ${image} was canceled`, { cause: signal.reason });
  }
  const code = errorCode(error);
  if (code !== 'ENOSPC' && code !== 'EDQUOT') return error;
  return new OciError('disk_full', `there is no room for ${image}`, {
    cause: error,
    remedy: 'Free disk space, for example with: neurovisor image prune',
  });
}
