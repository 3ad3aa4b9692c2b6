/** A cache directory, a recorder of progress events and a tiny recipe, for tests of `src/artifacts/image`. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { z } from 'zod';
import type { Job, PrepareContext, Recipe } from '../../src/artifacts/image/prepare.ts';
import { silentLog } from '../../src/base/log.ts';
import type { ProgressEvent } from '../../src/base/progress.ts';

export interface TestContext extends PrepareContext {
  readonly events: ProgressEvent[];
  readonly warnings: string[];
}

export async function temporaryDirectory(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'nv-image-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

export async function testContext(signal: AbortSignal = new AbortController().signal): Promise<TestContext> {
  const cacheDir = await temporaryDirectory();
  const events: ProgressEvent[] = [];
  const warnings: string[] = [];
  return {
    cacheDir,
    sourceDir: join(import.meta.dirname, '..', '..'),
    progress: (event) => events.push(event),
    signal,
    log: { ...silentLog, warn: (message) => warnings.push(message) },
    events,
    warnings,
  };
}

/** Writes one file `thing` with `content`; counts how often it was built. */
export function tinyRecipe(
  content: string,
  options: { key?: string; during?: (job: Job) => Promise<void>; spaceBytes?: number } = {},
): Recipe<{ note: string }> & { readonly builds: () => number } {
  let builds = 0;
  return {
    kind: 'tiny',
    title: 'Make a tiny thing',
    key: options.key ?? `key-of-${content}`,
    files: ['thing'],
    spaceBytes: options.spaceBytes ?? 1024,
    details: z.object({ note: z.string() }),
    build: async (job) => {
      builds += 1;
      await writeFile(join(job.outDir, 'thing'), content);
      await options.during?.(job);
      return { note: 'made' };
    },
    builds: () => builds,
  };
}
