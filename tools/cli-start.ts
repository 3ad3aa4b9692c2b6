/**
 * Measures what commands take to start beyond bare Node, in ms: `node tools/cli-start.ts [CHECKOUT ...]`. Each round
 * starts bare Node and every command of every checkout; compiled modules are cached, as the launcher has it.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { percentile } from '../src/base/statistics.ts';

const ROUNDS = 30;
const COMMANDS = ['--help', 'ls'];
const checkouts =
  process.argv.length > 2 ? process.argv.slice(2) : [join(import.meta.dirname, '..')];
const dir = mkdtempSync(join(tmpdir(), 'nv-cli-start-'));
// An empty home: there is no daemon.
const env = { ...process.env, NODE_COMPILE_CACHE: join(dir, 'cache'), NEUROVISOR_HOME: dir };

function elapsedMs(args: readonly string[]): number {
  const began = performance.now();
  spawnSync(process.execPath, args, { env, stdio: 'ignore' });
  return performance.now() - began;
}

const cases = checkouts.flatMap((checkout) =>
  COMMANDS.map((command) => ({
    name: `${checkout} ${command}`,
    args: [join(checkout, 'src/cli/main.ts'), command],
    beyondMs: [] as number[],
  })),
);
// The second start fills the cache.
for (const { args } of cases) for (let times = 0; times < 2; times += 1) elapsedMs(args);
const bareMs: number[] = [];
for (let round = 0; round < ROUNDS; round += 1) {
  const bare = elapsedMs(['-e', '0']);
  bareMs.push(bare);
  for (const { args, beyondMs } of cases) beyondMs.push(elapsedMs(args) - bare);
}
rmSync(dir, { recursive: true });
for (const { name, beyondMs } of [{ name: 'node -e 0', beyondMs: bareMs }, ...cases]) {
  const at = (percent: number): string | undefined => percentile(beyondMs, percent)?.toFixed(0);
  console.log(`${name}: median ${at(50)}, p95 ${at(95)}`);
}
