/** The list of unsteady tests on this machine, one JSON object per line. */
import { appendFile, mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Failure } from './report.ts';

/** Names another file than the one in the home's cache. */
export const LIST_VARIABLE = 'NEUROVISOR_UNSTEADY_LIST';

export async function appendUnsteady(
  path: string,
  seed: number,
  unsteady: readonly Failure[],
  now: Date,
): Promise<void> {
  if (unsteady.length === 0) return;
  await mkdir(dirname(path), { recursive: true });
  const lines = unsteady.map((failure) => JSON.stringify({ date: now.toISOString(), seed, ...failure }));
  await appendFile(path, `${lines.join('\n')}\n`);
}
