/**
 * Long runs of the properties in test/fuzz/.
 *
 *     node tools/fuzz.ts NAME [--seconds N] [--seed S]     NAME: a target, `smoke` (all, short) or `canary`
 *
 * A failure prints its seed and shrunken input, saves it in test/fixtures/regressions/<name>.json, which
 * the `prop` tests replay from then on, and ends with status 1.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import fc from 'fast-check';
import { canary, FUZZ_TARGETS } from '../test/fuzz/registry.ts';
import { regressionPath } from '../test/fuzz/regressions.ts';
import type { FuzzTarget } from '../test/fuzz/target.ts';

const SMOKE_SECONDS = 5;
const DEFAULT_SECONDS = 60;
const RUNS_PER_BATCH = 200;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { seconds: { type: 'string' }, seed: { type: 'string' } },
});
const [name = 'smoke'] = positionals;
const targets = [...FUZZ_TARGETS, canary].filter((each) =>
  name === 'smoke' ? each !== canary : each.name === name,
);
if (targets.length === 0) {
  console.error(
    `unknown target ${name}; one of: smoke, canary, ${FUZZ_TARGETS.map((t) => t.name).join(', ')}`,
  );
  process.exit(2);
}
const seconds = Number(values.seconds ?? (name === 'smoke' ? SMOKE_SECONDS : DEFAULT_SECONDS));
const firstSeed = Number(values.seed ?? Date.now() % 2 ** 31);
let isFailed = false;
for (const each of targets) isFailed = !fuzz(each) || isFailed;
process.exitCode = isFailed ? 1 : 0;

function fuzz(each: FuzzTarget): boolean {
  const endMs = performance.now() + seconds * 1000;
  let runs = 0;
  for (let seed = firstSeed; performance.now() < endMs; seed += 1) {
    const details = fc.check(each.property(), {
      seed,
      numRuns: RUNS_PER_BATCH,
      endOnFailure: false,
    });
    runs += details.numRuns;
    if (!details.failed) continue;
    console.error(`${each.name}: FAILED with --seed ${seed} (path ${details.counterexamplePath})`);
    console.error(fc.defaultReportMessage(details), details.errorInstance);
    save(each, seed, details.counterexamplePath);
    return false;
  }
  console.log(`${each.name}: ${runs} runs in ${seconds} s from seed ${firstSeed}, no failure`);
  return true;
}

/** Seed and path reproduce the input exactly, whatever it is made of. */
function save(each: FuzzTarget, seed: number, path: string | null): void {
  if (each === canary) return;
  const file = regressionPath(each.name);
  mkdirSync(join(file, '..'), { recursive: true });
  writeFileSync(file, `${JSON.stringify({ seed, path }, null, 2)}\n`);
  console.error(`saved in ${file}`);
}
