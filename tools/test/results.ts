/**
 * A run in two parts: CI runs the README's command, then the rest. The first part leaves here which layers it ran and
 * with what outcome; the second leaves them out and counts both in the closing line.
 */
import { readFile, writeFile } from 'node:fs/promises';
import type { Outcome } from './verdict.ts';

/** Names the file; an empty or missing file: nothing has run yet. */
export const RESULTS_VARIABLE = 'NEUROVISOR_TEST_RESULTS';

export interface LayerResult {
  /** Name of the layer. */
  readonly layer: string;
  readonly tookMs: number;
  readonly outcome: Outcome;
}

/** @throws SyntaxError, Error of Node: a damaged file must not pass for a run in which nothing failed */
export async function readResults(path: string | undefined): Promise<readonly LayerResult[]> {
  if (path === undefined || path === '') return [];
  const text = await readFile(path, 'utf8');
  return text === '' ? [] : (JSON.parse(text) as LayerResult[]);
}

export async function writeResults(path: string, results: readonly LayerResult[]): Promise<void> {
  await writeFile(path, JSON.stringify(results));
}
