/**
 * Verdicts on a host that stay until it changes, in files of the cache. A missing file is no error: the host is judged
 * again.
 */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { z } from 'zod';
import { awaitOr, ignore } from '../../base/ignore.ts';

/** @returns undefined if there is none of this schema */
export async function readVerdict<T>(path: string, schema: z.ZodType<T>): Promise<T | undefined> {
  return await awaitOr(undefined, 'no cached verdict', async () =>
    schema.parse(JSON.parse(await readFile(path, 'utf8'))),
  );
}

export async function writeVerdict(path: string, verdict: unknown): Promise<void> {
  const temporary = `${path}.${process.pid}`;
  try {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(temporary, `${JSON.stringify(verdict, null, 2)}\n`);
    await rename(temporary, path);
  } catch (error) {
    ignore(error, 'the verdict could not be cached; the next start probes again');
  }
}
