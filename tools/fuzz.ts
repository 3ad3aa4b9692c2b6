/**
 * Long runs of the properties in test/fuzz/.
 *
 *     node tools/fuzz.ts NAME [--seconds N] [--seed S]     NAME: a target, `smoke` (all, short) or `canary`
 *
 * A failure prints its seed and shrunken input, saves the input in test/fixtures/regressions/<name>.json, which
 * the `prop` tests replay from then on, and ends with status 1.
 */
import { parseArgs } from 'node:util';
import fc from 'fast-check';
import { canary, FUZZ_TARGETS } from '../test/fuzz/registry.ts';
import { replay, saveInput } from '../test/fuzz/saved-inputs.ts';
import { type FuzzTarget, propertyOf } from '../test/fuzz/target.ts';
import { runSeed } from '../test/support/run-seed.ts';

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
if (values.seed !== undefined) process.env['NEUROVISOR_SEED'] = values.seed;
const firstSeed = runSeed();
let isFailed = false;
for (const each of targets) isFailed = !fuzz(each) || isFailed;
process.exitCode = isFailed ? 1 : 0;

function fuzz(each: FuzzTarget): boolean {
  replay(each);
  const endMs = performance.now() + seconds * 1000;
  let runs = 0;
  for (let seed = firstSeed; performance.now() < endMs; seed += 1) {
    const details = fc.check(propertyOf(each), {
      seed,
      numRuns: RUNS_PER_BATCH,
      endOnFailure: false,
    });
    runs += details.numRuns;
    if (!details.failed) continue;
    console.error(`${each.name}: FAILED with --seed ${seed} (path ${details.counterexamplePath})`);
    console.error(fc.defaultReportMessage(details), details.errorInstance);
    if (each !== canary)
      console.error(`saved in ${saveInput(each.name, details.counterexample?.[0])}`);
    return false;
  }
  console.log(`${each.name}: ${runs} runs in ${seconds} s from seed ${firstSeed}, no failure`);
  return true;
}
