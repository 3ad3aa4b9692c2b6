/**
 * Pulls a model for the built-in engine from a file, a directory or a registry into the store of models.
 *
 *     source ─ files chosen ─ lock of the name ─ room ─ copy or skopeo ─ headers ─ model.json ─ rename
 *
 * Until the rename nothing is visible, and a failure removes the rest; the next pull removes what a killed one left behind.
 */
import { createHash } from 'node:crypto';
import { constants, mkdir, mkdtemp, open, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { explainFullDisk, requireSpace } from '../../../artifacts/image/disk-space.ts';
import {
  ENVIRONMENT_PACKAGES,
  installHostPackages,
  missingHostPackages,
} from '../../../artifacts/image/host-packages.ts';
import { withFileLock } from '../../../artifacts/image/lock.ts';
import { OciError } from '../../../artifacts/oci/errors.ts';
import { FETCH_LIMITS } from '../../../artifacts/oci/fetch.ts';
import { fetchModel, resolveModel } from '../../../artifacts/oci/model-fetch.ts';
import { systemClock } from '../../../base/clock.ts';
import { ifThere } from '../../../base/errors.ts';
import { namesIn } from '../../../base/names-in.ts';
import { ProgressStep } from '../../../base/progress.ts';
import { bytes as inUnits } from '../../../base/text/bytes.ts';
import { GIB, MIB } from '../../../base/units.ts';
import { type GgufHeader, readGguf } from '../../../inference/engine/gguf.ts';
import type { ModelPullOptions } from '../../../sandbox/contract/contents.ts';
import type { ModelPull, PulledModel } from '../../../sandbox/contract/schema/contents.ts';
import { tryLockExclusive } from '../../../sys/file.ts';
import type { SetupContext } from '../setup.ts';
import { type Choice, chooseModel } from './choose.ts';
import { asModelError, ModelError } from './errors.ts';
import {
  checkModelName,
  type LocalFile,
  localFiles,
  type ModelSource,
  modelSource,
  registryRemedy,
  usualName,
} from './source.ts';
import { type ModelRecord, ModelStore, RECORD, recordText } from './store.ts';

export interface PullContext extends Omit<SetupContext, 'sourceDir'> {
  /** Base of relative paths. */
  readonly cwd: string;
  /** For tests. */
  readonly bytesMax?: number;
}

const MODEL_BYTES_MAX = 512 * GIB;
/** Interval between two progress reports. */
const REPORT_MS = 200;
const COPY_BYTES = 4 * MIB;
/** Overhead beside the model: its record, partial blocks. */
const SLACK_BYTES = 16 * MIB;

/** A model's files, before they are fetched. */
interface Wanted {
  readonly name: string;
  readonly source: string;
  readonly version: string;
  /** Bytes to fetch, including licenses and the like. */
  readonly bytes: number;
  readonly count: number;
  /**
   * Writes the files.
   * @param dir new and private
   * @param paths of the files, in order
   * @returns their digests
   */
  fetch(dir: string, paths: readonly string[], onBytes: (bytes: number) => void): Promise<readonly string[]>;
}

/**
 * @param text a path, or a reference to a registry
 * @throws ModelError, ImageError `disk_full`, `cancelled`, EngineError `model_invalid`
 */
export async function pullModel(context: PullContext, text: string, options: ModelPullOptions): Promise<ModelPull> {
  if (options.name !== undefined) checkModelName(options.name);
  const source = await modelSource(text, context.cwd);
  if (source.kind !== 'registry') {
    const files = await localFiles(source, options.file);
    checkHeaders(await Promise.all(files.map(({ path }) => readGguf(path))));
    const name = options.name ?? usualName(source, files);
    return await pullWanted(context, wantedHere(name, files, context.signal));
  }
  try {
    return await pullWanted(context, await wantedThere(context, source, options));
  } catch (error) {
    const isUnknown = error instanceof OciError && ['image_not_found', 'unauthorized'].includes(error.code);
    throw asModelError(error, isUnknown ? registryRemedy(text, context.cwd) : undefined);
  }
}

function wantedHere(name: string, files: Choice<LocalFile>, signal: AbortSignal): Wanted {
  const facts = files.map(({ bytes, modifiedMs }) => [bytes, modifiedMs]);
  return {
    name,
    source: files[0]?.path ?? '',
    version: createHash('sha256').update(JSON.stringify(facts)).digest('hex'),
    bytes: sumOf(files),
    count: files.length,
    fetch: async (_dir, paths, onBytes) => {
      let before = 0;
      const digests: string[] = [];
      for (const [index, { path, bytes }] of files.entries()) {
        const onOwn = (own: number): void => onBytes(before + own);
        digests.push(await copyFile(path, paths[index] ?? '', bytes, { signal, onBytes: onOwn }));
        before += bytes;
      }
      return digests;
    },
  };
}

async function wantedThere(
  context: PullContext,
  source: Extract<ModelSource, { readonly kind: 'registry' }>,
  options: ModelPullOptions,
): Promise<Wanted> {
  const { reference } = source;
  await installHostPackages(context, await missingHostPackages(ENVIRONMENT_PACKAGES));
  const limits = { ...FETCH_LIMITS, imageBytesMax: context.bytesMax ?? MODEL_BYTES_MAX };
  const there = { reference, signal: context.signal, limits };
  const resolved = await inTemporaryDir((dir) => resolveModel({ ...there, dir }));
  const files = chooseModel(resolved.manifest.files, options.file, reference.text);
  const chosen = files.length === resolved.manifest.files.length ? '' : ` ${files[0]?.name}`;
  return {
    name: options.name ?? usualName(source, files, options.file),
    source: `${reference.text}${chosen}`,
    version: resolved.digest,
    bytes: resolved.bytes,
    count: files.length,
    fetch: async (dir, paths, onBytes) => {
      const blobPath = await fetchModel({ ...there, dir }, resolved, onBytes);
      for (const [index, { digest }] of files.entries()) {
        await rename(blobPath(digest), paths[index] ?? '');
      }
      return files.map(({ digest }) => digest);
    },
  };
}

async function pullWanted(context: PullContext, wanted: Wanted): Promise<ModelPull> {
  const { name, source, version } = wanted;
  const store = new ModelStore(context.cacheDir);
  const work = `pull ${name}`;
  return await withFileLock(context, store.lockPath(name), work, async () => {
    const known = store.find(name);
    if (known !== null && known.source !== source) throw nameTaken(known);
    if (known?.version === version) return { model: known, wasThere: true };
    await removeLeftovers(store, name);
    const dir = store.tmpDir(name);
    const step = new ProgressStep(context.progress, 'model-fetch', `Fetch ${name} (${inUnits(wanted.bytes)})`);
    try {
      await requireSpace(store.dir, wanted.bytes + SLACK_BYTES, `Fetching ${source}`);
      await mkdir(dir, { recursive: true, mode: 0o700 });
      await fetchInto(join(dir, 'new'), dir, wanted, context, step);
      await replaceDir(join(dir, 'new'), store.modelDir(name), join(dir, 'old'));
      step.done(false);
    } catch (error) {
      step.failed(error);
      throw explainFullDisk(error, store.dir, wanted.bytes, `Fetching ${source}`);
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
    return { model: await store.get(name), wasThere: false };
  });
}

/** Creates a model's directory. */
async function fetchInto(
  to: string,
  dir: string,
  wanted: Wanted,
  { signal }: PullContext,
  step: ProgressStep,
): Promise<void> {
  const { name, source, version, count } = wanted;
  await mkdir(to, { mode: 0o755 });
  const names = Array.from({ length: count }, (_, index) => fileName(name, index, count));
  const paths = names.map((one) => join(to, one));
  const digests = await wanted.fetch(dir, paths, (bytes) => step.bytes(bytes, wanted.bytes));
  signal.throwIfAborted();
  const headers = await Promise.all(paths.map((path) => readGguf(path, source)));
  const { split: _part, ...header } = checkHeaders(headers);
  const sizes = await Promise.all(paths.map(keep));
  const record: Omit<ModelRecord, 'format'> = {
    ...header,
    source,
    version,
    files: names.map((one, i) => ({ name: one, bytes: sizes[i] ?? 0, digest: digests[i] ?? '' })),
    parameters: headers.reduce((sum, { parameters }) => sum + parameters, 0),
    pulledAtMs: systemClock.wall(),
  };
  await writeFile(join(to, RECORD), recordText(record));
  signal.throwIfAborted();
}

/** Makes the file readable: the engine in its jail may be another user. @returns its size */
async function keep(path: string): Promise<number> {
  await using file = await open(path, 'r');
  await file.chmod(0o644);
  await file.sync();
  return (await file.stat()).size;
}

/** llama.cpp's names for the parts of a model. */
function fileName(name: string, index: number, count: number): string {
  if (count === 1) return `${name}.gguf`;
  const digits = (number: number): string => `${number}`.padStart(5, '0');
  return `${name}-${digits(index + 1)}-of-${digits(count)}.gguf`;
}

/**
 * @param headers of a model's files, in order
 * @returns the first
 * @throws ModelError `model_invalid`, `model_unsupported`
 */
function checkHeaders(headers: readonly GgufHeader[]): GgufHeader {
  const [first] = headers;
  const { length: count } = headers;
  for (const [index, { split }] of headers.entries()) {
    const isRight = count === 1 ? split === null : split?.index === index && split.count === count;
    if (isRight) continue;
    throw new ModelError('model_invalid', 'the model is not complete', {
      cause:
        split === null
          ? `file ${index + 1} of ${count} is a whole model`
          : `a file is part ${split.index + 1} of ${split.count}`,
      remedy: 'pull all of its parts, in files named …-00001-of-00003.gguf and so on',
    });
  }
  if (first?.architecture === 'clip' || first?.architecture === 'mmproj') {
    throw new ModelError('model_unsupported', 'this is not a model but the projector of one', {
      remedy: 'pull the model itself; the engine reads no images',
    });
  }
  if (first !== undefined && first.architecture !== null && first.parameters > 0) return first;
  throw new ModelError('model_invalid', 'the file has no model in it', {
    cause: first?.architecture === null ? 'it names no architecture' : 'it has no weights',
    remedy: 'a vocabulary or an adapter alone is no model: pull the model itself',
  });
}

/** Both directories are complete; a reader in between finds none, and after a kill the next pull repairs that. */
async function replaceDir(from: string, to: string, aside: string): Promise<void> {
  await ifThere(rename(to, aside));
  await rename(from, to);
}

/** Removes what killed pulls left behind, whose locks are free. */
async function removeLeftovers(store: ModelStore, own: string): Promise<void> {
  for (const name of await namesIn(join(store.dir, '.tmp'))) {
    await using lock = await open(store.lockPath(name), 'a', 0o600);
    if (name !== own && !tryLockExclusive(lock.fd)) continue;
    await rm(store.tmpDir(name), { recursive: true, force: true });
  }
}

/**
 * Copies a file of known size.
 * @returns its digest, `sha256:…`
 */
async function copyFile(
  from: string,
  to: string,
  bytes: number,
  { signal, onBytes }: { readonly signal: AbortSignal; onBytes(bytes: number): void },
): Promise<string> {
  await using source = await open(from, constants.O_RDONLY | constants.O_NONBLOCK);
  await using target = await open(to, 'wx', 0o600);
  const hash = createHash('sha256');
  const buffer = Buffer.alloc(COPY_BYTES);
  let done = 0;
  let reportedAtMs = Number.NEGATIVE_INFINITY;
  for (;;) {
    signal.throwIfAborted();
    const { bytesRead } = await source.read(buffer, 0, COPY_BYTES, done);
    const part = buffer.subarray(0, bytesRead);
    if (bytesRead === 0) break;
    await target.writeFile(part);
    hash.update(part);
    done += bytesRead;
    if (done > bytes) break;
    const nowMs = systemClock.now();
    if (nowMs - reportedAtMs < REPORT_MS) continue;
    reportedAtMs = nowMs;
    onBytes(done);
  }
  if (done === bytes) return `sha256:${hash.digest('hex')}`;
  throw new ModelError('model_invalid', `${from} has changed while it was copied`, {
    remedy: 'pull it again when nothing writes to it',
  });
}

async function inTemporaryDir<T>(work: (dir: string) => Promise<T>): Promise<T> {
  const dir = await mkdtemp(join(tmpdir(), 'nv-model-'));
  try {
    return await work(dir);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/**
 * Removes pulled models, also damaged ones, which lists omit. An engine that runs one keeps it until it ends.
 * @returns freed bytes
 * @throws ModelError `model_not_found`; then nothing is removed
 */
export async function removeModels(context: Omit<PullContext, 'cwd'>, names: readonly string[]): Promise<number> {
  const store = new ModelStore(context.cacheDir);
  const sizes = new Map<string, number>();
  for (const name of names) sizes.set(name, await store.size(name));
  for (const name of sizes.keys()) {
    await withFileLock(context, store.lockPath(name), `pull ${name}`, async () => {
      const dir = store.tmpDir(name);
      await rm(dir, { recursive: true, force: true });
      await mkdir(dir, { recursive: true });
      // Atomically: half a model is useless.
      await ifThere(rename(store.modelDir(name), join(dir, 'old')));
      await rm(dir, { recursive: true, force: true });
    });
  }
  return [...sizes.values()].reduce((sum, bytes) => sum + bytes, 0);
}

const sumOf = (all: readonly { readonly bytes: number }[]): number => all.reduce((sum, { bytes }) => sum + bytes, 0);

function nameTaken({ name, source }: PulledModel): ModelError {
  return new ModelError('name_taken', `there is a model "${name}" already`, {
    cause: `it is ${source}`,
    remedy: `give this one another name (--name NAME), or remove the other: neurovisor models rm ${name}`,
  });
}
