/**
 * Fetches an image into a private directory: its manifest, its configuration, its layers by digest.
 *
 *     skopeo inspect ─► index ─► manifest ─► bounds ─► skopeo copy ─► manifest again, configuration: digests
 *                                                          │
 *                                                      watch: bytes on disk, silence
 *
 * From a registry, skopeo writes an OCI layout in which cached blobs are placed first, so they are not fetched again.
 * Other sources are copied into skopeo's `dir`, which leaves uncompressed layers unchanged. Layers are not opened:
 * skopeo compares their digests, and the VM that unpacks them compares the digests of their content.
 */
import { link, mkdir, open, readdir, stat, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { assert } from '../../base/assert.ts';
import { systemClock } from '../../base/clock.ts';
import { ifThere } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { MIB } from '../../base/units.ts';
import {
  type Blob,
  choosePlatform,
  DOCUMENT_BYTES_MAX,
  digestOf,
  type LayerBlob,
  type Manifest,
  type ParsedConfig,
  parseConfig,
  parseDocument,
  requirePlatform,
} from './documents.ts';
import { OciError } from './errors.ts';
import type { Reference } from './reference.ts';
import { runSkopeo } from './skopeo.ts';

const WATCH_MS = 200;
/** Disk space beyond the layers and documents: skopeo's own files, and partly filled blocks. */
const SLACK_BYTES = 16 * MIB;

export interface FetchLimits {
  readonly imageBytesMax: number;
  /** A fetch ends after this time without a new byte. */
  readonly silenceMsMax: number;
}

export const FETCH_LIMITS: FetchLimits = { imageBytesMax: 32 * 1024 * MIB, silenceMsMax: 120_000 };

export interface FetchOptions {
  readonly reference: Reference;
  /** As in image manifests: `amd64`, `arm64`. */
  readonly architecture: string;
  /** A new private directory on the file system of the cache, which the caller removes. */
  readonly dir: string;
  readonly signal: AbortSignal;
  /** True: without the login that this host may have at the registry. */
  readonly isAnonymous?: boolean;
  readonly limits?: FetchLimits | undefined;
  /** For tests. */
  readonly program?: string | undefined;
}

export interface Resolved {
  /** Digest of the manifest for this machine; `null` if known only after copying. */
  readonly digest: string | null;
  readonly manifest: Manifest;
}

/** Looks up the manifest for this machine; stores nothing. @throws OciError */
export async function resolveImage(options: FetchOptions): Promise<Resolved> {
  const { reference, architecture } = options;
  const top = await inspect(options, reference.source);
  checkPin(reference, top);
  const found = parseDocument(top);
  if ('manifest' in found) return { digest: digestOf(top), manifest: found.manifest };
  const { digest } = choosePlatform(found.index, architecture);
  if (reference.repository === null) {
    // An archive or layout can't be asked for a digest: skopeo chooses, and its choice is checked.
    const copied = await inspect(options, reference.source, architecture);
    return { digest: null, manifest: manifestOf(copied) };
  }
  const chosen = await inspect(options, `${reference.repository}@${digest}`);
  if (digestOf(chosen) !== digest) throw altered('manifest');
  return { digest, manifest: manifestOf(chosen) };
}

export interface Fetched {
  readonly digest: string;
  readonly manifest: Manifest;
  readonly config: ParsedConfig;
  readonly blobPath: (digest: string) => string;
}

/**
 * @param cached paths of cached blobs, which are not fetched again
 * @param onBytes gets the number of bytes so far
 * @throws OciError
 */
export async function fetchImage(
  options: FetchOptions,
  resolved: Resolved,
  cached: (digest: string) => string | null,
  onBytes: (bytes: number, total: number) => void,
): Promise<Fetched> {
  const { reference, architecture, limits = FETCH_LIMITS } = options;
  const dir = join(options.dir, 'image');
  const { layers, config } = resolved.manifest;
  const blobs = new Map([config, ...layers].map((blob) => [blob.digest, blob]));
  const total = [...blobs.values()].reduce((sum, blob) => sum + blob.bytes, 0);
  await requireRoom(dir, total, limits.imageBytesMax, reference.text);
  const keepsBlobs = reference.repository !== null && layers.every(isCompressed);
  const copy = keepsBlobs ? layoutCopy(reference, resolved, dir) : plainCopy(reference, resolved, dir);
  await mkdir(dir, { mode: 0o700 });
  if (keepsBlobs) {
    await mkdir(dirname(copy.blobPath(config.digest)));
    for (const blob of blobs.values()) {
      await reuse(blob, cached(blob.digest), copy.blobPath(blob.digest));
    }
  }
  const platform = [`--override-os=linux`, `--override-arch=${architecture}`];
  // skopeo first unpacks a compressed archive into a copy.
  const archiveBytesMax = reference.repository === null ? limits.imageBytesMax : 0;
  const login = options.isAnonymous === true ? ['--src-no-creds'] : [];
  await watchedSkopeo(options, [...platform, 'copy', '--quiet', ...login, ...copy.args], {
    bytesMax: total + archiveBytesMax,
    cause: 'it is larger than its manifest says',
    onBytes: (bytes) => onBytes(Math.min(bytes, total), total),
  });
  return await readFetched(options, resolved, copy);
}

interface Copy {
  readonly args: readonly string[];
  readonly blobPath: (digest: string) => string;
  /** `null` to use the resolved manifest. */
  readonly manifestPath: string | null;
}

const isCompressed = ({ compression }: LayerBlob): boolean => compression !== 'none';

const pinnedSource = ({ repository, source }: Reference, { digest }: Resolved): string =>
  repository === null || digest === null ? source : `${repository}@${digest}`;

/** skopeo would compress uncompressed layers. It writes a manifest of its own, with the same blobs. */
function layoutCopy(reference: Reference, resolved: Resolved, dir: string): Copy {
  const to = [`--dest-shared-blob-dir=${dir}`, pinnedSource(reference, resolved)];
  return {
    args: [...to, `oci:${join(dir, 'layout')}:image`],
    blobPath: (digest) => join(dir, 'sha256', digest.slice('sha256:'.length)),
    manifestPath: null,
  };
}

function plainCopy(reference: Reference, resolved: Resolved, dir: string): Copy {
  return {
    args: ['--preserve-digests', pinnedSource(reference, resolved), `dir:${dir}`],
    blobPath: (digest) => join(dir, digest.slice('sha256:'.length)),
    manifestPath: join(dir, 'manifest.json'),
  };
}

async function readFetched(
  { architecture }: FetchOptions,
  resolved: Resolved,
  { blobPath, manifestPath }: Copy,
): Promise<Fetched> {
  const { digest, manifest } = await readManifest(manifestPath, resolved);
  if (resolved.digest !== null && digest !== resolved.digest) throw altered('manifest');
  const configPath = blobPath(manifest.config.digest);
  if ((await sizeOf(configPath)) === null) throw altered('configuration');
  const document = await readBounded(configPath, 'configuration');
  if (digestOf(document) !== manifest.config.digest) throw altered('configuration');
  const config = parseConfig(document);
  requirePlatform(config.platform, architecture);
  if (config.diffIds.length !== manifest.layers.length) {
    throw new OciError('image_invalid', 'the image contradicts itself', {
      cause: `it has ${manifest.layers.length} layers, and digests of ${config.diffIds.length}`,
    });
  }
  for (const layer of manifest.layers) {
    if ((await sizeOf(blobPath(layer.digest))) !== layer.bytes) throw altered('layer');
  }
  return { digest, manifest, config, blobPath };
}

/** `null` if skopeo, which reads JSON names in any case, has fetched other blobs than the manifest names. */
async function sizeOf(path: string): Promise<number | null> {
  return (await ifThere(stat(path)))?.size ?? null;
}

async function readManifest(
  path: string | null,
  resolved: Resolved,
): Promise<{ readonly digest: string; readonly manifest: Manifest }> {
  if (path === null) {
    assert(resolved.digest !== null, 'a registry names the digest');
    return { digest: resolved.digest, manifest: resolved.manifest };
  }
  const bytes = await readBounded(path, 'manifest');
  return { digest: digestOf(bytes), manifest: manifestOf(bytes) };
}

function manifestOf(bytes: Uint8Array): Manifest {
  const found = parseDocument(bytes);
  if ('manifest' in found) return found.manifest;
  throw new OciError('image_invalid', 'the image has an index in its index');
}

async function inspect(options: FetchOptions, source: string, architecture?: string): Promise<Buffer> {
  const platform = architecture === undefined ? [] : ['--override-os=linux', `--override-arch=${architecture}`];
  const { imageBytesMax } = options.limits ?? FETCH_LIMITS;
  const login = options.isAnonymous === true ? ['--no-creds'] : [];
  return await watchedSkopeo(options, [...platform, 'inspect', '--raw', ...login, source], {
    bytesMax: imageBytesMax,
    cause: `it has more than ${Math.floor(imageBytesMax / MIB)} MiB`,
    onBytes: () => undefined,
  });
}

function silent(image: string, ms: number): OciError {
  return new OciError('registry_failed', `fetching ${image} was stopped`, {
    cause: `nothing came for ${Math.round(ms / 1000)} s`,
    remedy: 'Check that the registry can be reached, and try again.',
  });
}

interface Watch {
  readonly bytesMax: number;
  /** Cause of the error above the limit. */
  readonly cause: string;
  readonly onBytes: (bytes: number) => void;
}

/** Runs skopeo with its temporary files in the private directory; by default they would be in /var/tmp, unwatched. */
export async function watchedSkopeo(
  options: Omit<FetchOptions, 'architecture'>,
  args: readonly string[],
  watch: Watch,
): Promise<Buffer> {
  const { program, reference, dir } = options;
  const temporary = join(dir, 'tmp');
  await mkdir(temporary, { recursive: true, mode: 0o700 });
  return await watched(options, watch, (signal) =>
    runSkopeo([`--tmpdir=${temporary}`, ...args], { program, image: reference.text, signal }),
  );
}

function checkPin({ digest }: Reference, document: Uint8Array): void {
  if (digest !== null && digestOf(document) !== digest) throw altered('manifest');
}

function altered(what: string): OciError {
  return new OciError('image_invalid', `the image's ${what} does not have its digest`, {
    remedy: 'Pull it again; if that fails, too, do not use its registry.',
  });
}

async function requireRoom(dir: string, total: number, bytesMax: number, image: string): Promise<void> {
  if (total > bytesMax) {
    throw new OciError('image_too_large', `${image} is too large`, {
      cause: `it has ${Math.ceil(total / MIB)} MiB, and ${Math.floor(bytesMax / MIB)} MiB is the limit`,
      remedy: 'Use a smaller image.',
    });
  }
  const { bavail, bsize } = await statfs(join(dir, '..'));
  if (bavail * bsize >= total + SLACK_BYTES) return;
  throw new OciError('disk_full', `there is no room for ${image}`, {
    cause: `it needs ${Math.ceil((total + SLACK_BYTES) / MIB)} MiB, and ${Math.floor((bavail * bsize) / MIB)} MiB are free`,
    remedy: 'Free disk space, for example with: neurovisor image prune',
  });
}

/** Reuses a cached blob of the right size. */
async function reuse(blob: Blob, path: string | null, to: string): Promise<void> {
  if (path === null) return;
  try {
    if ((await stat(path)).size !== blob.bytes) return;
    await link(path, to);
  } catch (error) {
    ignore(error, 'the blob is fetched');
  }
}

/** Ends the work if it stores too much, or nothing for long. */
async function watched<T>(
  { signal, limits = FETCH_LIMITS, reference, dir }: Omit<FetchOptions, 'architecture'>,
  { bytesMax, cause, onBytes }: Watch,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const own = new AbortController();
  let last = -1;
  let changedAt = systemClock.now();
  let isOver = false;
  const look = async (): Promise<void> => {
    const bytes = await bytesIn(dir);
    const now = systemClock.now();
    if (bytes !== last) changedAt = now;
    last = bytes;
    onBytes(bytes);
    if (bytes > bytesMax + SLACK_BYTES) {
      own.abort(new OciError('image_too_large', `fetching ${reference.text} was stopped`, { cause }));
    } else if (now - changedAt > limits.silenceMsMax) {
      own.abort(silent(reference.text, limits.silenceMsMax));
    }
    if (!isOver && !own.signal.aborted) timer = systemClock.after(WATCH_MS, () => void look());
  };
  let timer = systemClock.after(WATCH_MS, () => void look());
  try {
    return await work(AbortSignal.any([signal, own.signal]));
  } finally {
    isOver = true;
    timer();
  }
}

async function bytesIn(dir: string): Promise<number> {
  let bytes = 0;
  try {
    for (const name of await readdir(dir, { recursive: true })) {
      const found = await ifThere(stat(join(dir, name)));
      bytes += found?.size ?? 0;
    }
  } catch (error) {
    ignore(error, 'the directory is gone: the fetch has ended');
  }
  return bytes;
}

async function readBounded(path: string, what: string): Promise<Buffer> {
  await using file = await open(path, 'r');
  const { size } = await file.stat();
  if (size > DOCUMENT_BYTES_MAX) {
    throw new OciError('image_too_large', `the image's ${what} is too large`);
  }
  return await file.readFile();
}
