/**
 * The images of this machine, in one file of the cache. Every change is made under a lock to the current content, and
 * replaces the file at once.
 *
 *     <cacheDir>/oci/catalog.json
 *                   /blobs/<hex>            as fetched, by digest
 *                   /layers/<hex>.erofs     unpacked layers, by `layerKey`
 *                   /environments/<hex>.erofs, .json     merged images, by `environmentKey`
 *                   /tmp/                   fetches in progress
 */
import { mkdir, open, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { sleep } from '../../base/clock.ts';
import { ifThere } from '../../base/errors.ts';
import { tryLockExclusive } from '../../sys/file.ts';
import { OciError } from './errors.ts';
import { DIGEST } from './reference.ts';

const FORMAT = 1;
const LOCK_POLL_MS = 20;
const CATALOG_BYTES_MAX = 64 * 1024 * 1024;

const digest = z.string().regex(DIGEST);
const count = z.number().int().min(0);
const imageSchema = z.object({
  /** Digest of the manifest. */
  digest,
  /** References that resolved to it, as written; [] after their tags moved on. */
  names: z.array(z.string()),
  /** `linux/amd64`. */
  platform: z.string(),
  /** Milliseconds since 1970. */
  pulledAtMs: z.number(),
  configDigest: digest,
  /** Key of the files of an image that was built here, which has no layers. Absent for a pulled image. */
  built: digest.optional(),
  /** Bottom first. `bytes`: as stored in the registry. */
  layers: z.array(z.object({ digest, bytes: count, diffId: digest, compression: z.enum(['none', 'gzip', 'zstd']) })),
  config: z.object({
    user: z.string(),
    env: z.record(z.string(), z.string()),
    workdir: z.string(),
    entrypoint: z.array(z.string()),
    cmd: z.array(z.string()),
    exposedPorts: z.array(z.string()),
    labels: z.record(z.string(), z.string()),
    healthcheck: z
      .object({
        kind: z.enum(['none', 'exec', 'shell']),
        command: z.array(z.string()),
        intervalMs: z.number().nullable(),
        timeoutMs: z.number().nullable(),
        retries: z.number().nullable(),
      })
      .nullable(),
    stopSignal: z.string().nullable(),
  }),
});
const catalogSchema = z.object({ format: z.literal(FORMAT), images: z.array(imageSchema) });

export type StoredImage = Readonly<z.infer<typeof imageSchema>>;

export class Catalog {
  readonly #dir: string;

  /** @param dir `<cacheDir>/oci` */
  constructor(dir: string) {
    this.#dir = dir;
  }

  /** @throws OciError `image_invalid` if the file is damaged */
  async read(): Promise<readonly StoredImage[]> {
    const path = join(this.#dir, 'catalog.json');
    const text = await ifThere(readFile(path, 'utf8'));
    if (text === undefined) return [];
    try {
      if (text.length > CATALOG_BYTES_MAX) throw new Error('it is too large');
      return catalogSchema.parse(JSON.parse(text)).images;
    } catch (cause) {
      throw new OciError('image_invalid', 'the list of images is damaged', {
        cause,
        remedy: `Remove ${this.#dir}; images are then pulled again.`,
      });
    }
  }

  /** Replaces the list by the result of `change`; no other process changes it meanwhile. */
  async update<T>(
    signal: AbortSignal,
    change: (
      images: readonly StoredImage[],
    ) => Promise<{ readonly images: readonly StoredImage[]; readonly result: T }>,
  ): Promise<T> {
    await mkdir(this.#dir, { recursive: true });
    await using lock = await open(join(this.#dir, 'catalog.lock'), 'a', 0o600);
    while (!tryLockExclusive(lock.fd)) await sleep(LOCK_POLL_MS, signal);
    const { images, result } = await change(await this.read());
    const text = `${JSON.stringify({ format: FORMAT, images })}\n`;
    // Images with long labels could fill it.
    if (text.length > CATALOG_BYTES_MAX) {
      throw new OciError('image_too_large', 'there is no room in the list of images', {
        remedy: 'Remove images that are not needed: neurovisor image prune -a',
      });
    }
    const path = join(this.#dir, 'catalog.json');
    const next = `${path}.new`;
    await writeFile(next, text, { mode: 0o600 });
    await rename(next, path);
    return result;
  }
}
