/**
 * Measures the time of commands beyond bare Node, in ms: `node tools/cli-start.ts [CHECKOUT ...]`. Each round starts
 * bare Node and every command of every checkout in turn, on a daemon without VMs; compiled modules are cached, as by
 * the launcher. Wall time is meaningful only on an idle machine, so the rounds also print the CPU time.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { percentile } from '../src/base/statistics.ts';
import { startFakeDaemon } from '../test/support/fake-daemon.ts';

const ROUNDS = 30;
const COMMANDS = [['--help'], ['ls'], ['run', '-c', 'print(1)']];
const checkouts = process.argv.length > 2 ? process.argv.slice(2) : [join(import.meta.dirname, '..')];
const dir = mkdtempSync(join(tmpdir(), 'nv-cli-start-'));
await using daemon = await startFakeDaemon();
const env = { ...process.env, ...daemon.env, NODE_COMPILE_CACHE: join(dir, 'cache') };

interface Cost {
  /** Until the first output, for commands with output, otherwise until the end. */
  readonly wallMs: number;
  readonly cpuMs: number;
}

async function measure(program: string, args: readonly string[]): Promise<Cost> {
  const began = performance.now();
  // The shell reports the CPU time of its waited-for children.
  const child = spawn('bash', ['-c', '"$@" </dev/null; times >&2', 'bash', program, ...args], {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let wallMs: number | undefined;
  let times = '';
  child.stdout.once('data', () => {
    wallMs = performance.now() - began;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    times += text;
  });
  await once(child, 'close');
  wallMs ??= performance.now() - began;
  return { wallMs, cpuMs: childrenMs(times) };
}

/** The second line of `times`: `0m0.034s 0m0.012s`, user and system. */
function childrenMs(times: string): number {
  const line = times.trimEnd().split('\n').at(-1) ?? '';
  const parts = [...line.matchAll(/(\d+)m([\d.]+)s/g)];
  if (parts.length !== 2) throw new Error(`times printed ${JSON.stringify(line)}`);
  return parts.reduce((sum, [, min, s]) => sum + (Number(min) * 60 + Number(s)) * 1000, 0);
}

const cases = checkouts.flatMap((checkout) =>
  COMMANDS.map((words) => ({
    name: `${checkout} ${words.join(' ')}`,
    args: [join(checkout, 'src/cli/main.ts'), ...words],
    beyond: [] as Cost[],
  })),
);
// The second start fills the cache.
for (const { args } of cases) {
  for (let times = 0; times < 2; times += 1) await measure(process.execPath, args);
}
const bares: Cost[] = [];
for (let round = 0; round < ROUNDS; round += 1) {
  const bare = await measure(process.execPath, ['-e', '0']);
  bares.push(bare);
  for (const { args, beyond } of cases) {
    const { wallMs, cpuMs } = await measure(process.execPath, args);
    beyond.push({ wallMs: wallMs - bare.wallMs, cpuMs: cpuMs - bare.cpuMs });
  }
}
rmSync(dir, { recursive: true });
for (const { name, beyond } of [{ name: 'node -e 0', beyond: bares }, ...cases]) {
  const [wall, cpu] = (['wallMs', 'cpuMs'] as const).map((which) => {
    const values = beyond.map((cost) => cost[which]);
    const at = (percent: number): string | undefined => percentile(values, percent)?.toFixed(0);
    return `median ${at(50)}, p95 ${at(95)}`;
  });
  console.log(`${name}: ${wall}; processor time ${cpu}`);
}
