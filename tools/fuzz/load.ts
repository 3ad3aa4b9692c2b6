/** Imports a target so that the product's modules, and the canary, are instrumented. Once per thread. */
import { readFileSync } from 'node:fs';
import { registerHooks } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { FuzzTarget } from '../../test/fuzz/target.ts';
import { instrument } from './instrument.ts';
import { allot, counts } from './probe.ts';

const ROOT = pathToFileURL(join(import.meta.dirname, '..', '..')).href;
const INSTRUMENTED = [`${ROOT}/src/`, `${ROOT}/test/fuzz/canary`];
const PROBE = pathToFileURL(join(import.meta.dirname, 'probe.ts')).href;

export interface Loaded {
  readonly target: FuzzTarget;
  readonly literals: readonly (string | number)[];
}

export async function loadInstrumented(load: () => Promise<FuzzTarget>): Promise<Loaded> {
  const literals = new Set<string | number>();
  const hooks = registerHooks({
    load(url, context, nextLoad) {
      const isOurs = INSTRUMENTED.some((each) => url.startsWith(each)) && url.endsWith('.ts');
      if (!isOurs) return nextLoad(url, context);
      const code = readFileSync(fileURLToPath(url), 'utf8');
      const result = instrument(code, PROBE, counts.branches, counts.comparisons);
      allot(result.branches, result.comparisons);
      for (const each of result.literals) literals.add(each);
      return { format: 'module-typescript', shortCircuit: true, source: result.code };
    },
  });
  const target = await load();
  hooks.deregister();
  return { target, literals: [...literals] };
}
