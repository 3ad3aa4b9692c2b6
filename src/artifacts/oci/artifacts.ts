/** Artifacts in registries that are not images: pushed and fetched by skopeo, with the user's credentials. */
import { remedyOf } from '../../base/errors.ts';
import { digestOf } from './documents.ts';
import { OciError } from './errors.ts';
import { FETCH_LIMITS, type FetchOptions, watchedSkopeo } from './fetch.ts';
import type { Reference } from './reference.ts';
import { runSkopeo } from './skopeo.ts';

/** @param layout for skopeo: `oci:DIR:TAG`. @throws OciError */
export async function pushArtifact({
  layout,
  reference,
  signal,
}: {
  readonly layout: string;
  readonly reference: Reference;
  readonly signal: AbortSignal;
}): Promise<void> {
  const { source, text: image } = reference;
  try {
    await runSkopeo(['copy', '--quiet', layout, source], { signal, image });
  } catch (error) {
    if (!(error instanceof OciError) || error.code === 'cancelled') throw error;
    const options = { cause: error.cause, remedy: remedyOf(error) };
    throw new OciError(error.code, `could not push ${image}`, options);
  }
}

/**
 * Copies the artifact into a layout. skopeo checks the digests of all blobs.
 * @param check judges the manifest before anything else is fetched, and returns the bytes of all blobs
 * @throws OciError, and errors of `check`
 */
export async function fetchArtifact({
  to,
  check,
  ...options
}: Pick<FetchOptions, 'reference' | 'dir' | 'signal'> & {
  /** For skopeo: `oci:DIR:TAG`, below `dir`. */
  readonly to: string;
  readonly check: (manifest: Uint8Array) => number;
}): Promise<void> {
  const { source, repository } = options.reference;
  const small = { bytesMax: 0, cause: 'its manifest is too large', onBytes: () => undefined };
  const manifest = await watchedSkopeo(options, ['inspect', '--raw', source], small);
  const { digest: pinned } = options.reference;
  const digest = digestOf(manifest);
  if (pinned !== null && pinned !== digest) {
    throw new OciError('image_invalid', 'the manifest does not have its digest');
  }
  const bytesMax = check(manifest);
  if (bytesMax > FETCH_LIMITS.imageBytesMax) {
    throw new OciError('image_too_large', `${options.reference.text} is too large`);
  }
  const cause = 'it is larger than its manifest says';
  await watchedSkopeo(options, ['copy', '--quiet', `${repository}@${digest}`, to], {
    bytesMax,
    cause,
    onBytes: () => undefined,
  });
}
