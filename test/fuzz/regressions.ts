/** Runs a target as a short test: first the saved failure, if there is one, then fresh inputs. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import type { FuzzTarget } from './target.ts';

/** Fixed, so that a red build is red again. `tools/fuzz.ts` looks elsewhere. */
const SEED = 20_261_124;

export function regressionPath(name: string): string {
  return join(import.meta.dirname, '..', 'fixtures', 'regressions', `${name}.json`);
}

export function runTarget(target: FuzzTarget): void {
  const path = regressionPath(target.name);
  if (existsSync(path)) {
    const saved = JSON.parse(readFileSync(path, 'utf8')) as { seed: number; path: string };
    fc.assert(target.property(), { seed: saved.seed, path: saved.path, endOnFailure: true });
  }
  fc.assert(target.property(), { seed: SEED, numRuns: target.runs });
}
