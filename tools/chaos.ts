/**
 * Sandboxes at work while their daemon, its launcher and their VMMs are killed and stopped; see test/support/chaos.ts.
 *
 *     node tools/chaos.ts [--time 30m] [--seed S]
 *
 * Prints faults, checks and leftovers, and exits with status 1 after a broken promise.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { parseDuration } from '../src/cli/flags/options.ts';
import { runChaos } from '../test/support/chaos.ts';
import { openDaemonHome } from '../test/support/daemon.ts';
import { runSeed } from '../test/support/run-seed.ts';

const DISK_MIB = 2048;
const { values } = parseArgs({ options: { time: { type: 'string', default: '30m' }, seed: { type: 'string' } } });
if (values.seed !== undefined) process.env['NEUROVISOR_SEED'] = values.seed;
const seed = runSeed();
console.log(`faults for ${values.time} from seed ${seed}`);
// The processes of this run see a file system of their own, which may get full.
if (process.env['CHAOS_MOUNTS'] === undefined) {
  const args = ['--mount', '--propagation', 'private', process.execPath, ...process.argv.slice(1)];
  const { status } = spawnSync('unshare', args, { stdio: 'inherit', env: { ...process.env, CHAOS_MOUNTS: 'own' } });
  process.exit(status ?? 1);
}
await using home = await openDaemonHome();
const fills = join(home.dir, 'data');
await mkdir(fills, { mode: 0o700 });
execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${DISK_MIB}m,mode=700`, 'none', fills]);
const { faults, checks, gapsMs, failures, left, log } = await runChaos({
  home,
  fills,
  seed,
  ms: parseDuration(values.time),
  progress: (line) => console.log(`${new Date().toISOString()} ${line}`),
});
execFileSync('umount', [fills]);
for (const [fault, count] of faults) console.log(String(count).padStart(7), fault);
for (const [lane, count] of checks) console.log(String(count).padStart(7), 'checks of', lane);
const gaps = gapsMs.toSorted((a, b) => a - b);
console.log(`no daemon for ${gaps[gaps.length >> 1]} ms (median), at most ${gaps.at(-1)} ms`);
for (const failure of failures) console.log('failed:', failure);
for (const one of left) console.log('left:', one);
if (failures.length > 0 || left.length > 0) {
  console.log(log);
  process.exitCode = 1;
}
