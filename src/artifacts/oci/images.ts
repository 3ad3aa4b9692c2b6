/**
 * The images of this machine: pulled from registries and archives, and made into disks for VMs.
 *
 *     reference ─ resolve ─► manifest ─ fetch ─► blobs ─ builder: a VM per layer ─► layers ─ builder ─► environment
 *                                                 └─ by digest   by both digests ┘     by all of them ┘
 *
 * Each step finds what is already there, so that images share layers, and a second pull takes as long as the question to
 * the registry. What a VM made is found by the digests of the blobs that it read too (`stored-image.ts`).
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { z } from 'zod';
import { systemClock } from '../../base/clock.ts';
import { ifThere } from '../../base/errors.ts';
import { newSandboxId } from '../../base/ids.ts';
import { awaitOr } from '../../base/ignore.ts';
import { type Progress, ProgressStep } from '../../base/progress.ts';
import { GIB } from '../../base/units.ts';
import { type ImageBuilder, UNFINISHED } from './builder.ts';
import { Catalog, type StoredImage } from './catalog.ts';
import type { ImageConfig } from './documents.ts';
import { type Fetched, type FetchLimits, fetchImage, resolveImage } from './fetch.ts';
import { type CacheFile, chooseEvictions, hexOf, ImageFiles } from './files.ts';
import { explain, goneBuild, MissingBlob, notFound, removedFiles, tooLarge } from './image-errors.ts';
import { parseReference, type Reference, registryOf } from './reference.ts';
import { SharedWork } from './shared-work.ts';
import {
  type Environment,
  environmentKey,
  filesOf,
  findByHex,
  findByName,
  layerKey,
  toEnvironment,
  toPlain,
  toStored,
} from './stored-image.ts';

export type { Environment } from './stored-image.ts';

export interface ImageLimits {
  /** Largest unpacked archive of a layer. */
  readonly layerBytesMax: number;
  /** Largest size of all unpacked layers of an image. */
  readonly unpackedBytesMax: number;
  /** Largest size of the cache of images. */
  readonly quotaBytes: number;
}

export const IMAGE_LIMITS: ImageLimits = { layerBytesMax: 16 * GIB, unpackedBytesMax: 32 * GIB, quotaBytes: 64 * GIB };

export interface ImagesOptions {
  readonly cacheDir: string;
  /** As images call it: `amd64`, `arm64`. */
  readonly architecture: string;
  readonly builder: ImageBuilder;
  readonly progress: Progress;
  /** Called before a registry or an archive is read. Default: nothing. */
  readonly beforeFetch?: (() => Promise<void>) | undefined;
  readonly limits?: ImageLimits | undefined;
  readonly fetchLimits?: FetchLimits | undefined;
  /** For tests: the program to use instead of skopeo. */
  readonly skopeo?: string | undefined;
}

export interface PulledImage {
  readonly image: StoredImage;
  readonly environment: Environment;
}

/** Bytes that a removal freed. */
export interface Removed {
  readonly images: readonly string[];
  readonly bytes: number;
}

const environmentSchema = z.object({ digest: z.string(), bytes: z.number() });

export class Images {
  readonly #options: ImagesOptions;
  readonly #limits: ImageLimits;
  readonly #files: ImageFiles;
  readonly #catalog: Catalog;
  readonly #pulls = new SharedWork<StoredImage>();
  readonly #builds = new SharedWork<Environment>();
  /** Number of pulls under way. */
  #pulling = 0;

  constructor(options: ImagesOptions) {
    this.#options = options;
    this.#limits = options.limits ?? IMAGE_LIMITS;
    const dir = join(options.cacheDir, 'oci');
    this.#files = new ImageFiles(dir);
    this.#catalog = new Catalog(dir);
  }

  /** Architecture of the images that run here, as images call it. */
  get architecture(): string {
    return this.#options.architecture;
  }

  /** Newest first. @throws OciError */
  async list(): Promise<readonly StoredImage[]> {
    return (await this.#catalog.read()).toSorted((a, b) => b.pulledAtMs - a.pulledAtMs);
  }

  /**
   * By reference, digest, or a prefix of at least 6 digits of the digest.
   * @throws OciError `image_not_found`
   */
  async find(text: string, cwd: string): Promise<StoredImage> {
    const images = await this.list();
    const found = images.find(({ digest }) => digest === text) ?? findByHex(images, text);
    const image = found ?? findByName(images, parseReference(text, cwd));
    if (image !== undefined) return image;
    throw notFound(text);
  }

  /**
   * Fetches the image and makes its environment, or finds both.
   * @param when `missing`: a name that is known here is not asked for again
   * @param mayLogIn whether this host logs in at a registry. Default: wherever it has a login
   * @throws OciError
   */
  async pull(
    reference: Reference,
    when: 'always' | 'missing',
    signal: AbortSignal,
    mayLogIn: (host: string) => boolean = () => true,
  ): Promise<PulledImage> {
    const registry = registryOf(reference);
    const isAnonymous = registry !== null && !mayLogIn(registry);
    const obtain = (): Promise<StoredImage> =>
      this.#pulls.run(`${isAnonymous} ${reference.text}`, signal, (own) => this.#fetch(reference, own, isAnonymous));
    this.#pulling += 1;
    return await this.#pull(reference, when, signal, obtain).finally(() => {
      this.#pulling -= 1;
    });
  }

  async #pull(
    reference: Reference,
    when: 'always' | 'missing',
    signal: AbortSignal,
    obtain: () => Promise<StoredImage>,
  ): Promise<PulledImage> {
    const isStored = reference.transport === 'stored';
    const isSought = isStored || when === 'missing';
    const known = isSought ? findByName(await this.list(), reference) : undefined;
    if (isStored && known === undefined) throw notFound(reference.text);
    const image = known ?? (await obtain());
    const environment = await this.#environmentOr(image, reference, signal, obtain);
    await this.#enforceQuota(image, signal);
    return { image, environment };
  }

  /** Blobs that were evicted meanwhile are fetched again. */
  async #environmentOr(
    image: StoredImage,
    reference: Reference,
    signal: AbortSignal,
    obtain: () => Promise<StoredImage>,
  ): Promise<Environment> {
    try {
      return await this.#environment(image, signal);
    } catch (error) {
      if (!(error instanceof MissingBlob)) throw error;
      if (reference.transport === 'stored') throw removedFiles(reference);
      const again = await obtain();
      return await this.#environment(again, signal).catch((second: unknown) => {
        if (!(second instanceof MissingBlob)) throw second;
        throw removedFiles(reference);
      });
    }
  }

  /** Whether a build has made these files. @param key `sha256:…` of all that they depend on */
  async hasBuilt(key: string): Promise<boolean> {
    const bytes = await this.#files.use('environments', key);
    return bytes !== null && (await this.#recordOf(key, bytes)) !== undefined;
  }

  /** Path of a new file for the disk of a build, on the cache's file system. */
  async placeForBuild(key: string): Promise<string> {
    await this.#files.make();
    return `${this.#files.path('environments', key)}.${newSandboxId()}${UNFINISHED}`;
  }

  /** Makes the file the disk of these files. */
  async keepBuilt(key: string, from: string, signal: AbortSignal): Promise<void> {
    await this.#keepEnvironment(key, from, signal);
  }

  /**
   * Lists what a build made, as an image without layers.
   * @param name null: without one
   * @throws OciError `image_not_found`: its disk was removed meanwhile
   */
  async addBuilt(key: string, config: ImageConfig, name: Reference | null, signal: AbortSignal): Promise<PulledImage> {
    const plain = toPlain(config);
    const text = JSON.stringify({ key, config: plain });
    const digest = `sha256:${createHash('sha256').update(text).digest('hex')}`;
    const image: StoredImage = {
      digest,
      names: [],
      platform: `linux/${this.#options.architecture}`,
      pulledAtMs: systemClock.wall(),
      configDigest: digest,
      built: key,
      layers: [],
      config: plain,
    };
    const added = await this.#add(image, name?.text ?? null, signal);
    const environment = await this.#environment(added, signal);
    await this.#enforceQuota(added, signal);
    return { image: added, environment };
  }

  /**
   * Removes images and the files that no other image needs.
   * @throws OciError `image_not_found`
   */
  async remove(texts: readonly string[], cwd: string, signal: AbortSignal): Promise<Removed> {
    const found = await Promise.all(texts.map((text) => this.find(text, cwd)));
    const gone = new Set(found.map(({ digest }) => digest));
    return await this.#removeWhere(signal, ({ digest }) => gone.has(digest));
  }

  /** Removes images without a name, or all; and files of no image. */
  async prune(all: boolean, signal: AbortSignal): Promise<Removed> {
    return await this.#removeWhere(signal, ({ names }) => all || names.length === 0);
  }

  async #removeWhere(signal: AbortSignal, isGone: (image: StoredImage) => boolean): Promise<Removed> {
    return await this.#catalog.update(signal, async (images) => {
      const kept = images.filter((image) => !isGone(image));
      const needed = new Set(kept.flatMap(filesOf));
      const files = (await this.#files.list()).filter(({ hex }) => !needed.has(hex));
      const result = {
        images: images.filter(isGone).map(({ digest }) => digest),
        bytes: await this.#removeFiles(files),
      };
      return { images: kept, result };
    });
  }

  async #removeFiles(files: readonly CacheFile[]): Promise<number> {
    for (const file of files) await this.#files.remove(file);
    return files.reduce((sum, { ownBytes }) => sum + ownBytes, 0);
  }

  async #enforceQuota(used: StoredImage, signal: AbortSignal): Promise<void> {
    // The last of several pulls does it: the others need what they have just made.
    if (this.#pulling > 1) return;
    const files = await this.#files.list();
    const keep = new Set([hexOf(environmentKey(used))]);
    const evicted = chooseEvictions(files, this.#limits.quotaBytes, keep);
    if (evicted.length === 0) return;
    await this.#removeFiles(evicted);
    signal.throwIfAborted();
  }

  async #fetch(reference: Reference, signal: AbortSignal, isAnonymous: boolean): Promise<StoredImage> {
    const { architecture, fetchLimits: limits, skopeo: program } = this.#options;
    await this.#options.beforeFetch?.();
    const step = new ProgressStep(this.#options.progress, 'image-fetch', `Fetch ${reference.text}`);
    await this.#files.make();
    const dir = join(this.#files.dir, 'tmp', newSandboxId());
    const options = { reference, architecture, dir, signal, limits, program, isAnonymous };
    try {
      const resolved = await resolveImage(options);
      const known = (await this.list()).find(({ digest }) => digest === resolved.digest);
      if (known !== undefined && (await this.#isComplete(known))) {
        step.done(true);
        return await this.#addName(known, reference, signal);
      }
      const fetched = await fetchImage(
        options,
        resolved,
        (digest) => this.#files.path('blobs', digest),
        (bytes, total) => step.bytes(bytes, total),
      );
      await this.#keepBlobs(fetched);
      step.done(false);
      return await this.#addName(toStored(fetched), reference, signal);
    } catch (error) {
      step.failed(error);
      throw explain(error, reference.text, signal);
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  }

  /** Whether its environment is there, or can be built without the registry. */
  async #isComplete(image: StoredImage): Promise<boolean> {
    if ((await this.#files.use('environments', environmentKey(image))) !== null) return true;
    for (const layer of image.layers) {
      const has = (await this.#files.use('layers', layerKey(layer))) ?? (await this.#files.use('blobs', layer.digest));
      if (has === null) return false;
    }
    return true;
  }

  async #keepBlobs({ manifest, blobPath }: Fetched): Promise<void> {
    for (const { digest } of manifest.layers) {
      // A layer that occurs twice is gone the second time.
      await ifThere(rename(blobPath(digest), this.#files.path('blobs', digest)));
    }
  }

  async #addName(image: StoredImage, { text }: Reference, signal: AbortSignal): Promise<StoredImage> {
    return await this.#add(image, text, signal);
  }

  /** The name now means this image, and no other. */
  async #add(image: StoredImage, text: string | null, signal: AbortSignal): Promise<StoredImage> {
    return await this.#catalog.update(signal, async (images) => {
      const others = images.map((one) => ({ ...one, names: one.names.filter((name) => name !== text) }));
      const existing = others.find(({ digest }) => digest === image.digest) ?? image;
      const names = [...existing.names.filter((name) => name !== text), ...(text === null ? [] : [text])];
      const result = { ...existing, names, pulledAtMs: systemClock.wall() };
      return { images: [...others.filter(({ digest }) => digest !== image.digest), result], result };
    });
  }

  async #environment(image: StoredImage, signal: AbortSignal): Promise<Environment> {
    const key = environmentKey(image);
    return await this.#builds.run(key, signal, async (own) => {
      const found = await this.#findEnvironment(image, key);
      if (found !== undefined) return found;
      if (image.built !== undefined) throw goneBuild(image);
      await this.#files.make();
      const layers = await this.#buildLayers(image, own);
      return await this.#merge(image, key, layers, own);
    });
  }

  async #findEnvironment(image: StoredImage, key: string): Promise<Environment | undefined> {
    const path = this.#files.path('environments', key);
    const bytes = await this.#files.use('environments', key);
    if (bytes === null) return undefined;
    const digest = await this.#recordOf(key, bytes);
    return digest === undefined ? undefined : toEnvironment(image, path, digest);
  }

  /** @returns the digest of the whole file; undefined: it is not whole */
  async #recordOf(key: string, bytes: number): Promise<string | undefined> {
    const path = this.#files.path('environments', key);
    const record = await awaitOr(undefined, 'the environment is built again', async () =>
      environmentSchema.parse(JSON.parse(await readFile(`${path}.json`, 'utf8'))),
    );
    return record?.bytes === bytes ? record.digest : undefined;
  }

  /** Moves a whole file to its place, and records its digest. */
  async #keepEnvironment(key: string, from: string, signal: AbortSignal): Promise<string> {
    const path = this.#files.path('environments', key);
    await rm(`${path}.json`, { force: true });
    const digest = await digestFile(from, signal);
    const record = { digest, bytes: (await stat(from)).size };
    if (from !== path) await rename(from, path);
    // Last: without it the image counts as not built.
    await writeFile(`${path}.json`, `${JSON.stringify(record)}\n`);
    return digest;
  }

  async #buildLayers(
    image: StoredImage,
    signal: AbortSignal,
  ): Promise<readonly { readonly path: string; readonly bytes: number }[]> {
    const { progress, builder } = this.#options;
    const { layers } = image;
    const title = layers.length === 1 ? 'Unpack the layer' : `Unpack ${layers.length} layers`;
    const step = new ProgressStep(progress, 'image-layers', title);
    const made: { path: string; bytes: number }[] = [];
    let built = 0;
    let left = this.#limits.unpackedBytesMax;
    try {
      for (const [index, layer] of layers.entries()) {
        const key = layerKey(layer);
        const path = this.#files.path('layers', key);
        let bytes = await this.#files.use('layers', key);
        if (bytes === null) {
          const blobPath = this.#files.path('blobs', layer.digest);
          if ((await this.#files.use('blobs', layer.digest)) === null) throw new MissingBlob();
          const unpackedBytesMax = Math.min(left, this.#limits.layerBytesMax);
          const { diffId, compression, bytes: blobBytes } = layer;
          const job = { blobPath, blobBytes, compression, diffId, unpackedBytesMax };
          await builder.layer(job, path, signal);
          bytes = (await stat(path)).size;
          built += 1;
        }
        left -= bytes;
        if (left < 0) throw tooLarge(this.#limits.unpackedBytesMax);
        made.push({ path, bytes });
        step.fraction((index + 1) / layers.length, `${index + 1} of ${layers.length}`);
      }
      step.done(built === 0);
      return made;
    } catch (error) {
      step.failed(error);
      throw explain(error, image.names.at(-1) ?? image.digest, signal);
    }
  }

  async #merge(
    image: StoredImage,
    key: string,
    layers: readonly { readonly path: string; readonly bytes: number }[],
    signal: AbortSignal,
  ): Promise<Environment> {
    const step = new ProgressStep(this.#options.progress, 'image-merge', 'Merge the layers');
    const path = this.#files.path('environments', key);
    try {
      await rm(`${path}.json`, { force: true });
      await this.#options.builder.merge({ layers }, path, signal);
      const digest = await this.#keepEnvironment(key, path, signal);
      step.done(false);
      return toEnvironment(image, path, digest);
    } catch (error) {
      step.failed(error);
      throw explain(error, image.names.at(-1) ?? image.digest, signal);
    }
  }
}

async function digestFile(path: string, signal: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash, { signal });
  return `sha256:${hash.digest('hex')}`;
}
