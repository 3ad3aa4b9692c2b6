/**
 * Builds and caches the files that a sandbox starts from: guest kernel, golden image, overlay template, model.
 *
 *   inputs (configuration, lock files, sources)          <cacheDir>/<kind>/<key>/
 *        │ digest = key                                     manifest.json   files with SHA-256, details
 *        ▼                                                  vmlinux | rootfs.erofs | …
 *   does <kind>/<key> exist, unaltered? ──────────yes──►  use it
 *        │ no
 *        ▼
 *   <cacheDir>/tmp/<kind>-…/  build ──► hash ──► manifest ──► rename into place (atomic)
 *
 * So an artifact exists completely or not at all, and is read without a lock; a build holds a lock for its key
 * (lock.ts). A killed build leaves files only in tmp/, which the next set-up removes. An altered or unreadable artifact
 * is built again. The key covers the inputs of the checkout; external ones (package versions, compiler) are recorded in
 * the manifest.
 */
import { closeSync, openSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { z } from 'zod';
import { systemClock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import type { Progress } from '../../base/progress.ts';
import { tryLockExclusive, tryLockShared } from '../../sys/file.ts';
import { digestSparse } from '../../sys/sparse-threads.ts';
import { explainFullDisk, requireSpace } from './disk-space.ts';
import { ImageError } from './errors.ts';
import { withArtifactLock } from './lock.ts';
import { digestFile, verifyImage } from './verify.ts';
import { makeWorkDir } from './work-dir.ts';

export interface PrepareContext {
  readonly cacheDir: string;
  /** Root of the checkout, with `kernel/`, `image/` and `guest/`. */
  readonly sourceDir: string;
  readonly progress: Progress;
  readonly signal: AbortSignal;
  readonly log: Log;
}

export interface Recipe<Details> {
  /** Directory in the cache, and name of the progress step. */
  readonly kind: string;
  readonly title: string;
  /** Digest of all inputs, hexadecimal. */
  readonly key: string;
  readonly files: readonly string[];
  /** Files that are mostly holes; their digest is `digestSparse`. */
  readonly sparseFiles?: readonly string[];
  /** Number of other artifacts of this kind to keep. Default 1. */
  readonly othersKept?: number;
  /** Keys of artifacts that are also kept. */
  readonly pinned?: ReadonlySet<string>;
  /** Peak disk space of the build, including the result. */
  readonly spaceBytes: number;
  readonly details: z.ZodType<Details>;
  readonly build: (job: Job) => Promise<Details>;
}

export interface Job {
  /** Directory of the recipe's files, which becomes the artifact. */
  readonly outDir: string;
  /** Directory for everything else, removed afterwards. */
  readonly scratchDir: string;
  readonly signal: AbortSignal;
  readonly log: Log;
  /** @param fraction of work that is counted, 0 to 1 */
  readonly report: (detail: string, fraction?: number) => void;
}

export interface Artifact<Details> {
  readonly dir: string;
  readonly files: ReadonlyMap<string, ArtifactFile>;
  readonly details: Details;
}

export interface ArtifactFile {
  readonly path: string;
  readonly sha256: string;
  readonly sizeBytes: number;
}

export const MANIFEST = 'manifest.json';
const MANIFEST_FORMAT = 1;
/** Default of `othersKept`: one for another checkout or a rollback. */
const OTHERS_KEPT = 1;

const manifestSchema = z.object({
  format: z.literal(MANIFEST_FORMAT),
  kind: z.string(),
  key: z.string(),
  files: z.record(
    z.string(),
    z.object({ sha256: z.string().regex(/^[0-9a-f]{64}$/), sizeBytes: z.number().int().min(0) }),
  ),
  details: z.unknown(),
});

/** Returns the artifact from the cache, or builds it. @throws ImageError; `context.progress` gets every failure, too */
export async function prepareArtifact<Details>(
  context: PrepareContext,
  recipe: Recipe<Details>,
): Promise<Artifact<Details>> {
  const { kind, title } = recipe;
  const startedAtMs = systemClock.now();
  const done = (cached: boolean): void =>
    context.progress({ kind: 'done', step: kind, cached, durationMs: systemClock.now() - startedAtMs });
  try {
    const found = await readArtifact(context, recipe);
    if (found !== undefined) {
      done(true);
      return found;
    }
    return await withArtifactLock(context, recipe, title, async () => {
      const meanwhile = await findArtifact(context, recipe);
      if (meanwhile !== undefined) {
        done(true);
        return meanwhile;
      }
      context.progress({ kind: 'start', step: kind, title });
      const made = await makeArtifact(context, recipe);
      done(false);
      return made;
    });
  } catch (error) {
    context.progress({ kind: 'failed', step: kind, message: describeError(error) });
    throw error;
  }
}

/** A cheap hint: true if an artifact for these inputs exists, unverified. */
export async function isCached(
  cacheDir: string,
  recipe: { readonly kind: string; readonly key: string },
): Promise<boolean> {
  return (await readdirOrEmpty(join(cacheDir, recipe.kind))).includes(recipe.key);
}

/** The details in the manifest of a cached artifact, unverified; undefined if there is none, or it is unreadable. */
export async function cachedDetails<Details>(
  cacheDir: string,
  recipe: Pick<Recipe<Details>, 'kind' | 'key' | 'details'>,
): Promise<Details | undefined> {
  try {
    const text = await readFile(join(cacheDir, recipe.kind, recipe.key, MANIFEST), 'utf8');
    return recipe.details.parse(manifestSchema.parse(JSON.parse(text)).details);
  } catch (error) {
    ignore(error, `no readable manifest of the ${recipe.kind}`);
    return undefined;
  }
}

/** The artifact, unless it is missing or unusable. */
async function readArtifact<Details>(
  { cacheDir }: PrepareContext,
  recipe: Recipe<Details>,
): Promise<Artifact<Details> | undefined> {
  if (!(await isCached(cacheDir, recipe))) return undefined;
  try {
    return await openArtifact(join(cacheDir, recipe.kind, recipe.key), recipe);
  } catch (error) {
    ignore(error, 'the holder of the lock reports and removes it');
    return undefined;
  }
}

async function findArtifact<Details>(
  context: PrepareContext,
  recipe: Recipe<Details>,
): Promise<Artifact<Details> | undefined> {
  const dir = join(context.cacheDir, recipe.kind, recipe.key);
  if ((await readdirOrEmpty(dirname(dir))).includes(recipe.key)) {
    try {
      return await openArtifact(dir, recipe);
    } catch (error) {
      context.log.warn(`the cached ${recipe.kind} is unusable and will be rebuilt`, { reason: describeError(error) });
      await removeTree(dir);
    }
  }
  return undefined;
}

/** @throws if the artifact differs from its manifest */
async function openArtifact<Details>(dir: string, recipe: Recipe<Details>): Promise<Artifact<Details>> {
  const manifest = manifestSchema.parse(JSON.parse(await readFile(join(dir, MANIFEST), 'utf8')));
  if (manifest.kind !== recipe.kind || manifest.key !== recipe.key) {
    throw new ImageError('artifact_altered', `open ${dir}: its manifest belongs to another artifact`);
  }
  const details = recipe.details.parse(manifest.details);
  const files = new Map<string, ArtifactFile>();
  for (const name of recipe.files) {
    const file = manifest.files[name];
    if (file === undefined) {
      throw new ImageError('artifact_altered', `open ${dir}: its manifest lacks ${name}`);
    }
    const path = join(dir, name);
    await verifyImage(path, file.sha256, digestOf(recipe, name));
    files.set(name, { path, ...file });
  }
  return { dir, files, details };
}

function digestOf(recipe: Pick<Recipe<unknown>, 'sparseFiles'>, name: string): (path: string) => Promise<string> {
  return recipe.sparseFiles?.includes(name) === true ? digestSparse : digestFile;
}

async function makeArtifact<Details>(context: PrepareContext, recipe: Recipe<Details>): Promise<Artifact<Details>> {
  const { cacheDir } = context;
  const kindDir = join(cacheDir, recipe.kind);
  await mkdir(kindDir, { recursive: true });
  await requireSpace(cacheDir, recipe.spaceBytes, recipe.title);
  const workDir = await makeWorkDir(cacheDir, recipe.kind);
  try {
    const outDir = join(workDir.path, 'out');
    const scratchDir = join(workDir.path, 'scratch');
    await mkdir(outDir);
    await mkdir(scratchDir);
    const details = await recipe.build({
      outDir,
      scratchDir,
      signal: context.signal,
      log: context.log,
      report: (detail, fraction) => {
        const counted = fraction === undefined ? {} : { fraction };
        context.progress({ kind: 'update', step: recipe.kind, detail, ...counted });
      },
    });
    const files = await describeFiles(outDir, recipe);
    const manifest = { format: MANIFEST_FORMAT, kind: recipe.kind, key: recipe.key, files, details };
    await writeFile(join(outDir, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
    // The last chance to cancel: after the rename the artifact exists.
    context.signal.throwIfAborted();
    const dir = join(kindDir, recipe.key);
    await rename(outDir, dir);
    await pruneOld(kindDir, recipe);
    const placed = Object.entries(files).map(([name, file]) => [name, { path: join(dir, name), ...file }] as const);
    return { dir, files: new Map(placed), details };
  } catch (error) {
    throw explainFullDisk(error, cacheDir, recipe.spaceBytes, recipe.title);
  } finally {
    await workDir.remove();
  }
}

async function describeFiles(
  dir: string,
  recipe: Pick<Recipe<unknown>, 'files' | 'sparseFiles'>,
): Promise<Record<string, { sha256: string; sizeBytes: number }>> {
  const described: Record<string, { sha256: string; sizeBytes: number }> = {};
  for (const name of recipe.files) {
    const path = join(dir, name);
    const { size } = await stat(path);
    described[name] = { sha256: await digestOf(recipe, name)(path), sizeBytes: size };
  }
  return described;
}

async function pruneOld(
  kindDir: string,
  { key, othersKept = OTHERS_KEPT, pinned }: Pick<Recipe<unknown>, 'key' | 'othersKept' | 'pinned'>,
): Promise<void> {
  const others: { path: string; mtimeMs: number }[] = [];
  for (const name of await readdirOrEmpty(kindDir)) {
    if (name === key || pinned?.has(name) === true) continue;
    const path = join(kindDir, name);
    others.push({ path, mtimeMs: (await stat(path)).mtimeMs });
  }
  others.sort((a, b) => b.mtimeMs - a.mtimeMs);
  for (const old of others.slice(othersKept)) {
    if (!isHeld(old.path)) await removeTree(old.path);
  }
}

/**
 * Keeps an artifact from being removed for newer ones, until the process ends or the returned function is called. A
 * daemon starts VMs from its own artifact for weeks, while other checkouts set the machine up anew.
 * @throws Error of Node if it does not exist
 */
export function holdArtifact(dir: string): () => void {
  const fd = openSync(join(dir, MANIFEST), 'r');
  tryLockShared(fd);
  return () => closeSync(fd);
}

function isHeld(dir: string): boolean {
  let fd: number;
  try {
    fd = openSync(join(dir, MANIFEST), 'r');
  } catch (error) {
    ignore(error, 'without a manifest it is of no use');
    return false;
  }
  try {
    return !tryLockExclusive(fd);
  } finally {
    closeSync(fd);
  }
}

async function removeTree(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true, maxRetries: 3 });
}

async function readdirOrEmpty(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    ignore(error, `no directory ${basename(dir)} in the cache yet`);
    return [];
  }
}
