/**
 * Fetches a model into a private directory, as `fetch.ts` does with an image: manifest, bounds, blobs by digest, all by
 * skopeo. Files of models are never opened here.
 */
import { mkdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ifThere } from '../../base/errors.ts';
import { type Blob, digestOf } from './documents.ts';
import { OciError } from './errors.ts';
import { FETCH_LIMITS, type FetchOptions, watchedSkopeo } from './fetch.ts';
import { hexOf } from './files.ts';
import { type ModelManifest, parseModelManifest } from './model-manifest.ts';
import { openModelView } from './model-view.ts';

/** Old versions of skopeo restart a blob when its connection breaks; newer ones resume it automatically. */
const RETRIES = '--retry-times=3';

export type ModelFetchOptions = Omit<FetchOptions, 'architecture'>;

export interface ResolvedModel {
  readonly digest: string;
  readonly manifest: ModelManifest;
  readonly bytes: number;
}

/** Looks up the manifest; stores nothing. @throws OciError */
export async function resolveModel(options: ModelFetchOptions): Promise<ResolvedModel> {
  const { reference } = options;
  const top = await inspect(options, reference.source);
  if (reference.digest !== null && digestOf(top) !== reference.digest) throw altered('manifest');
  const found = parseModelManifest(top);
  if ('manifest' in found) return resolved(top, found.manifest);
  if (reference.repository === null) throw nested();
  const chosen = await inspect(options, `${reference.repository}@${found.digest}`);
  if (digestOf(chosen) !== found.digest) throw altered('manifest');
  const inner = parseModelManifest(chosen);
  if ('manifest' in inner) return resolved(chosen, inner.manifest);
  throw nested();
}

function resolved(document: Uint8Array, manifest: ModelManifest): ResolvedModel {
  const bytes = manifest.blobs.reduce((sum, blob) => sum + blob.bytes, 0);
  return { digest: digestOf(document), manifest, bytes };
}

/**
 * Fetches all blobs, whose digests skopeo checks.
 * @param onBytes gets the number of bytes so far
 * @returns the path of each blob, by its digest
 * @throws OciError
 */
export async function fetchModel(
  options: ModelFetchOptions,
  { digest, manifest, bytes: total }: ResolvedModel,
  onBytes: (bytes: number, total: number) => void,
): Promise<(digest: string) => string> {
  const { reference, limits = FETCH_LIMITS } = options;
  const { source, repository } = reference;
  if (total > limits.imageBytesMax) {
    throw new OciError('image_too_large', `${reference.text} is too large`, {
      cause: `it has ${total} bytes, and ${limits.imageBytesMax} is the limit`,
      remedy: 'Use a smaller model.',
    });
  }
  const dir = join(options.dir, 'blobs');
  await mkdir(dir, { mode: 0o700 });
  const watch = {
    bytesMax: total,
    cause: 'it is larger than its manifest says',
    onBytes: (bytes: number) => onBytes(Math.min(bytes, total), total),
  };
  const copy = (from: string, ...more: readonly string[]): Promise<unknown> =>
    watchedSkopeo(options, ['copy', '--quiet', RETRIES, ...more, from, `dir:${dir}`], watch);
  if (manifest.isOllama && repository !== null) {
    await using view = await openModelView(reference, manifest);
    await copy(view.source, '--src-tls-verify=false');
  } else {
    const from = repository === null ? source : `${repository}@${digest}`;
    await copy(from, '--preserve-digests');
  }
  const pathOf = (blob: string): string => join(dir, hexOf(blob));
  for (const blob of manifest.files) await requireBlob(pathOf(blob.digest), blob);
  return pathOf;
}

/** skopeo, which reads JSON names in any case, may have fetched other blobs than the manifest names. */
async function requireBlob(path: string, { bytes }: Blob): Promise<void> {
  const found = await ifThere(stat(path));
  if (found?.size !== bytes) throw altered('file');
}

async function inspect(options: ModelFetchOptions, source: string): Promise<Buffer> {
  return await watchedSkopeo(options, ['inspect', '--raw', source], {
    bytesMax: (options.limits ?? FETCH_LIMITS).imageBytesMax,
    cause: 'its manifest is too large',
    onBytes: () => undefined,
  });
}

const nested = (): OciError =>
  new OciError('image_unsupported', "the model can't be used: it has an index in its index");

function altered(what: string): OciError {
  return new OciError('image_invalid', `the model's ${what} does not have its digest`, {
    remedy: 'Pull it again; if that fails, too, do not use its registry.',
  });
}
