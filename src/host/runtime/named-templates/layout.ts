/**
 * A named template as an OCI layout: its spec and, if it has an image, that image's disk. RAM is not included: it fits
 * only the processor, kernel and VMM that it was saved with, so the importing host builds its own.
 *
 *     DIR/  oci-layout  index.json  blobs/sha256/  manifest ─► configuration (JSON: name, spec)
 *                                                         └──► disk of the image (EROFS, zstd), if any
 *
 * Everything read is hostile: documents are bounded and validated, blobs have digests, a disk grows to its limit at most
 * and is never opened by the host.
 */
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { chmod, lstat, mkdir, open, readdir, rename, rm, statfs, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Transform, type TransformCallback } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createZstdCompress, createZstdDecompress } from 'node:zlib';
import { z } from 'zod';
import { isDiskFull } from '../../../artifacts/image/disk-space.ts';
import { DIGEST } from '../../../artifacts/oci/reference.ts';
import { parseRequirements } from '../../../artifacts/requirements/requirement.ts';
import { errorCode } from '../../../base/errors.ts';
import { MIB } from '../../../base/units.ts';
import { inRange } from '../../../sandbox/contract/checks.ts';
import { SandboxError } from '../../../sandbox/contract/errors.ts';
import { RANGES, TEMPLATE_NAME } from '../../../sandbox/contract/limits.ts';
import { ENV_NAME, makeSpec, type TemplateSpec } from '../../../sandbox/contract/spec.ts';
import { checkStart } from '../../../sandbox/start/start-program.ts';
import type { NamedTemplate } from '../../../sandbox/start/template.ts';
import { specSchema } from '../kept-templates.ts';

export const ARTIFACT_TYPE = 'application/vnd.neurovisor.template.v1';
const CONFIG_TYPE = 'application/vnd.neurovisor.template.config.v1+json';
const DISK_TYPE = 'application/vnd.neurovisor.environment.v1.erofs+zstd';
const MANIFEST_TYPE = 'application/vnd.oci.image.manifest.v1+json';

const FORMAT = 1;
export const DOCUMENT_BYTES_MAX = 4 * MIB;
/** Limit of an image's unpacked disk: the same as for pulled images. */
const DISK_BYTES_MAX = 32 * 1024 * MIB;
const ENVIRONMENT_CHARACTERS_MAX = 256 * 1024;

const descriptor = z.object({
  mediaType: z.string().max(256),
  digest: z.string().regex(DIGEST),
  size: z.number().int().min(0),
});
type Descriptor = z.infer<typeof descriptor>;
const manifestSchema = z.object({
  schemaVersion: z.literal(2),
  config: descriptor,
  layers: z.array(descriptor).max(1),
});
const indexSchema = z.object({ manifests: z.array(descriptor).min(1).max(1) });
const configSchema = z.object({
  format: z.literal(FORMAT),
  name: z.string().regex(TEMPLATE_NAME),
  spec: specSchema,
  diskBytes: z.number().int().min(1).max(DISK_BYTES_MAX).exactOptional(),
});

/** A validated template in a layout; its disk is not read yet. */
export interface PackedTemplate {
  readonly name: string;
  readonly spec: TemplateSpec;
  /** Writes and verifies the image's disk. Omitted without an image. */
  readonly writeDisk?: (path: string, signal: AbortSignal) => Promise<void>;
}

/**
 * @param dir a new or empty directory; removed, or emptied, on failure
 * @throws SandboxError `name_taken` if it is not empty; `disk_full`
 */
export async function writeTemplate(template: NamedTemplate, dir: string, signal: AbortSignal): Promise<void> {
  await mkdir(dir, { recursive: true });
  if ((await readdir(dir)).length > 0) {
    throw new SandboxError('name_taken', `${dir} is not empty`, { remedy: 'name a new directory for the template' });
  }
  try {
    await writeInto(template, dir, signal);
  } catch (error) {
    for (const name of await readdir(dir)) await rm(join(dir, name), { recursive: true });
    throw explained(error, dir, signal);
  }
}

async function writeInto({ name, spec, image }: NamedTemplate, dir: string, signal: AbortSignal): Promise<void> {
  const blobs = join(dir, 'blobs/sha256');
  await mkdir(blobs, { recursive: true });
  const put = async (mediaType: string, document: object): Promise<Descriptor> => {
    const bytes = Buffer.from(`${JSON.stringify(document)}\n`);
    const digest = digestOf(bytes);
    await writeFile(join(blobs, hexOf(digest)), bytes);
    return { mediaType, digest, size: bytes.length };
  };
  const layers: Descriptor[] = [];
  let diskBytes: number | undefined;
  if (image !== undefined) {
    const packed = join(blobs, 'disk.new');
    const plain = new Measure(DISK_BYTES_MAX);
    const stored = new Measure(Number.POSITIVE_INFINITY);
    const streams = [plain, createZstdCompress(), stored, createWriteStream(packed)] as const;
    await pipeline(createReadStream(image.path), ...streams, { signal });
    if (plain.digest() !== image.environment.digest) {
      throw new SandboxError('template_failed', `the image's disk of template ${name} is damaged`, {
        remedy: `build the template again: neurovisor template create -t ${name} …`,
      });
    }
    const digest = stored.digest();
    await rename(packed, join(blobs, hexOf(digest)));
    layers.push({ mediaType: DISK_TYPE, digest, size: stored.bytes });
    diskBytes = plain.bytes;
  }
  const more = diskBytes === undefined ? {} : { diskBytes };
  const config = await put(CONFIG_TYPE, { format: FORMAT, name, spec, ...more });
  const manifest = await put(MANIFEST_TYPE, {
    schemaVersion: 2,
    mediaType: MANIFEST_TYPE,
    artifactType: ARTIFACT_TYPE,
    config,
    layers,
  });
  const annotations = { 'org.opencontainers.image.ref.name': LAYOUT_TAG };
  const index = { schemaVersion: 2, manifests: [{ ...manifest, annotations }] };
  await writeFile(join(dir, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}\n');
  // Written last: without it the directory is no layout.
  await writeFile(join(dir, 'index.json'), `${JSON.stringify(index)}\n`);
}

export const LAYOUT_TAG = 'template';

/**
 * @param hostCpus see `makeSpec`
 * @param from the source's name, for errors
 * @throws SandboxError `not_found` without a layout; `spec_invalid` if it is no template, or damaged
 */
export async function readTemplate(dir: string, hostCpus: number, from: string = dir): Promise<PackedTemplate> {
  const blobs = join(dir, 'blobs/sha256');
  const index = parse(indexSchema, await readBounded(join(dir, 'index.json'), from), from);
  const [top] = index.manifests as [Descriptor];
  const manifest = parseManifest(await readBlob(blobs, top, from), from);
  const document = await readBlob(blobs, manifest.config, from);
  const { name, spec, diskBytes } = parse(configSchema, document, from);
  const [layer] = manifest.layers;
  const checked = checkSpec(spec, hostCpus, from);
  const { environment } = checked;
  if (environment === undefined) {
    if (layer !== undefined) throw invalid(from, 'it has a disk, but no image');
    return { name, spec: checked };
  }
  if (layer?.mediaType !== DISK_TYPE || diskBytes === undefined) {
    throw invalid(from, 'the disk of its image is missing');
  }
  const writeDisk = async (path: string, signal: AbortSignal): Promise<void> => {
    try {
      await requireRoom(path, diskBytes);
      await unpack(join(blobs, hexOf(layer.digest)), layer, path, { from, diskBytes, signal }).then((digest) => {
        if (digest !== environment.digest) throw invalid(from, 'its disk has another digest');
      });
    } catch (error) {
      await rm(path, { force: true });
      throw explained(error, dirname(path), signal);
    }
  };
  return { name, spec: checked, writeDisk };
}

/** @throws SandboxError `spec_invalid`, for example for an image */
export function parseManifest(bytes: Uint8Array, where: string): z.infer<typeof manifestSchema> {
  const manifest = parse(manifestSchema, bytes, where);
  if (manifest.config.mediaType === CONFIG_TYPE) return manifest;
  throw invalid(where, 'it is something else, such as a container image');
}

/** @returns the digest of the unpacked disk */
async function unpack(
  path: string,
  { digest, size }: Descriptor,
  to: string,
  job: { readonly from: string; readonly diskBytes: number; readonly signal: AbortSignal },
): Promise<string> {
  const { from, diskBytes, signal } = job;
  await requireFile(path, size, from);
  const stored = new Measure(size);
  const plain = new Measure(diskBytes);
  const target = createWriteStream(to, { flags: 'wx', mode: 0o600 });
  try {
    await pipeline(createReadStream(path), stored, createZstdDecompress(), plain, target, { signal });
  } catch (error) {
    const isOurs = error instanceof TooLong || /^Z|zstd/i.test(String(errorCode(error)));
    throw isOurs ? invalid(from, 'its disk is damaged') : error;
  }
  if (stored.digest() !== digest || plain.bytes !== diskBytes) {
    throw invalid(from, 'its disk is damaged');
  }
  // The mode of image files, whatever the umask: a jailed VMM may be another user.
  await chmod(to, 0o644);
  return plain.digest();
}

/** Validates as a sandbox request would be. */
function checkSpec(given: TemplateSpec, hostCpus: number, dir: string): TemplateSpec {
  try {
    const { cpus, memoryMib, memoryMaxMib, diskMib, warm, environment } = given;
    const place = environment === undefined ? {} : { environment };
    makeSpec({ cpus, memoryMib, memoryMaxMib, diskMib, warm, ...place }, hostCpus);
    if (environment !== undefined) checkEnvironment(environment);
    const { card: _card, requirements, start, ...spec } = given;
    const { packagesMinAgeMs } = spec;
    if (packagesMinAgeMs !== undefined) {
      inRange('packagesMinAgeMs', packagesMinAgeMs, RANGES.packageAgeMs);
    }
    return {
      ...spec,
      ...(requirements === undefined ? {} : { requirements: parseRequirements(requirements) }),
      ...(start === undefined ? {} : { start: checkStart(start) }),
    };
  } catch (cause) {
    throw new SandboxError('spec_invalid', `the template in ${dir} can't be used here`, { cause });
  }
}

/** As strict as the image reader. */
function checkEnvironment(environment: NonNullable<TemplateSpec['environment']>): void {
  const { digest, imageDigest, env, workdir } = environment;
  const text = JSON.stringify(environment);
  const isSane =
    DIGEST.test(digest) &&
    DIGEST.test(imageDigest) &&
    Object.keys(env).every((name) => ENV_NAME.test(name)) &&
    (workdir === '' || workdir.startsWith('/')) &&
    // A NUL character.
    !text.includes('\\u0000') &&
    text.length <= ENVIRONMENT_CHARACTERS_MAX;
  if (!isSane) throw new Error('what it says of its image is invalid');
}

async function readBlob(blobs: string, { digest, size }: Descriptor, dir: string): Promise<Buffer> {
  const bytes = await readBounded(join(blobs, hexOf(digest)), dir);
  if (bytes.length === size && digestOf(bytes) === digest) return bytes;
  throw invalid(dir, 'a document has another digest');
}

async function readBounded(path: string, dir: string): Promise<Buffer> {
  try {
    const found = await lstat(path);
    // A pipe or a device could block the reader forever.
    if (!found.isFile()) throw invalid(dir, 'it has something else than files');
    if (found.size > DOCUMENT_BYTES_MAX) throw invalid(dir, 'a document is too large');
    await using file = await open(path, 'r');
    const buffer = Buffer.alloc(DOCUMENT_BYTES_MAX + 1);
    let length = 0;
    for (;;) {
      const { bytesRead } = await file.read(buffer, length, buffer.length - length);
      length += bytesRead;
      if (bytesRead === 0) return buffer.subarray(0, length);
      if (length > DOCUMENT_BYTES_MAX) throw invalid(dir, 'a document is too large');
    }
  } catch (error) {
    const code = errorCode(error);
    if (code !== 'ENOENT' && code !== 'ENOTDIR') throw error;
    throw new SandboxError('not_found', `there is no template in ${dir}`, {
      remedy: 'name a directory that `neurovisor template export` wrote',
    });
  }
}

async function requireFile(path: string, size: number, dir: string): Promise<void> {
  const found = await lstat(path).catch((error: unknown) => {
    if (errorCode(error) !== 'ENOENT') throw error;
    throw invalid(dir, 'its disk is missing');
  });
  if (!found.isFile() || found.size !== size) throw invalid(dir, 'its disk is damaged');
}

async function requireRoom(path: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(join(path, '..'));
  if (bavail * bsize >= bytes) return;
  throw new SandboxError('disk_full', `there is no room for the image of the template`, {
    cause: `it needs ${Math.ceil(bytes / MIB)} MiB, and ${Math.floor((bavail * bsize) / MIB)} MiB are free`,
    remedy: 'free disk space, for example with: neurovisor image prune',
  });
}

function parse<T>(schema: z.ZodType<T>, bytes: Uint8Array, dir: string): T {
  try {
    return schema.parse(JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)));
  } catch (error) {
    const issue = error instanceof z.ZodError ? error.issues[0] : undefined;
    const why = issue === undefined ? 'a document is not JSON' : issue.path.map(String).join('.');
    throw invalid(dir, issue === undefined ? why : `a document has an invalid field: ${why}`);
  }
}

function invalid(where: string, why: string): SandboxError {
  return new SandboxError('spec_invalid', `${where} has no valid template`, {
    cause: why.slice(0, 300),
    remedy: 'export it again with: neurovisor template export (or push)',
  });
}

/** @returns the error to throw */
function explained(error: unknown, dir: string, signal: AbortSignal): unknown {
  if (signal.aborted) return new SandboxError('cancelled', 'copying the template was canceled');
  if (!isDiskFull(error)) return error;
  return new SandboxError('disk_full', `the file system of ${dir} is full`, {
    cause: error,
    remedy: 'free disk space, and try again',
  });
}

class TooLong extends Error {}

/** Passes bytes on, counted and hashed, up to a limit. */
class Measure extends Transform {
  bytes = 0;
  readonly #most: number;
  readonly #hash = createHash('sha256');

  constructor(most: number) {
    super();
    this.#most = most;
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    this.bytes += chunk.length;
    if (this.bytes > this.#most) {
      done(new TooLong('it is larger than it says'));
      return;
    }
    this.#hash.update(chunk);
    done(null, chunk);
  }

  /** `sha256:…`. Call once. */
  digest(): string {
    return `sha256:${this.#hash.digest('hex')}`;
  }
}

const digestOf = (bytes: Uint8Array): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
const hexOf = (digest: string): string => digest.slice('sha256:'.length);
