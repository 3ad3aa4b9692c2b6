/**
 * A run in two parts: CI runs the README's command, then the rest. The first part records which layers it ran and their
 * outcome; the second skips them and counts both in the closing line.
 */
import { readFile, writeFile } from 'node:fs/promises';
import type { Outcome } from './verdict.ts';

/** Names the file; if it is empty or missing, nothing has run yet. */
export const RESULTS_VARIABLE = 'NEUROVISOR_TEST_RESULTS';

export interface LayerResult {
  readonly layer: string;
  readonly tookMs: number;
  readonly outcome: Outcome;
}

/** @throws SyntaxError, a Node error: a damaged file must not pass for a run in which nothing failed */
export async function readResults(path: string | undefined): Promise<readonly LayerResult[]> {
  if (path === undefined || path === '') return [];
  const text = await readFile(path, 'utf8');
  return text === '' ? [] : (JSON.parse(text) as LayerResult[]);
}

export async function writeResults(path: string, results: readonly LayerResult[]): Promise<void> {
  await writeFile(path, JSON.stringify(results));
}
