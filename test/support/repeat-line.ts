import { join, relative } from 'node:path';
import { expect } from 'vitest';
import { runSeed } from './run-seed.ts';

const ROOT = join(import.meta.dirname, '../..');

/** Returns the command that repeats the file of the current test with the seed of this run. */
export function repeatLine(): string {
  const path = relative(ROOT, expect.getState().testPath ?? '');
  return `repeat: NEUROVISOR_SEED=${runSeed()} ./neurovisor test ${path}`;
}
