/**
 * A mixed load of E2B's client on `neurovisor serve` with real VMs; see test/support/e2b-soak.ts.
 *
 *     node tools/e2b-soak.ts [--time 30m] [--rounds 10] [--seed S]
 *
 * Prints the actions and the leftovers, and exits with status 1 after a failure or a leak.
 */
import { parseArgs } from 'node:util';
import { parseDuration } from '../src/cli/flags/options.ts';
import { runE2bSoak } from '../test/support/e2b-soak.ts';
import { runSeed } from '../test/support/run-seed.ts';

const { values } = parseArgs({
  options: {
    time: { type: 'string', default: '30m' },
    rounds: { type: 'string', default: '10' },
    seed: { type: 'string' },
  },
});
if (values.seed !== undefined) process.env['NEUROVISOR_SEED'] = values.seed;
const seed = runSeed();
console.log(`mixed load for ${values.time} in ${values.rounds} rounds from seed ${seed}`);
const { rounds, before, sandboxes, killed, done, busy, failures, leaks, log } = await runE2bSoak({
  seed,
  ms: parseDuration(values.time),
  rounds: Number(values.rounds),
  progress: (line) => console.log(`${new Date().toISOString()} ${line}`),
});
for (const [deed, count] of [...done].toSorted((a, b) => b[1] - a[1])) console.log(String(count).padStart(7), deed);
for (const failure of failures) console.log('failed:', JSON.stringify(failure));
const deeds = rounds.reduce((sum, round) => sum + round.deeds, 0);
const last = rounds.at(-1)?.memory ?? before;
const mib = (bytes: number): string => `${(bytes / 1024 ** 2).toFixed(1)} MiB`;
console.log(
  `${deeds} deeds in ${sandboxes} sandboxes, ${killed} clients killed, ${busy} refused for now, ${failures.length} deeds failed`,
);
console.log(
  `heap ${mib(before.heapUsed)}, then ${mib(last.heapUsed)}; resident ${mib(before.rss)}, then ${mib(last.rss)}`,
);
for (const leak of leaks) console.log('left:', leak);
if (failures.length > 0 || leaks.length > 0) {
  console.log(log);
  process.exitCode = 1;
} else console.log('nothing is left');
