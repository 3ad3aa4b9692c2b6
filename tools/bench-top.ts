/**
 * Measures the cost of an update of `neurovisor top`: `node tools/bench-top.ts [sandboxes]` (default 200). Runs a
 * daemon without VMs in its own process, its metrics full of series; prints CPU time of either side, and bytes between
 * them and to the terminal, while each sandbox's tokens change from frame to frame.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { connectDaemon } from '../src/api/client/client.ts';
import { daemonSocket, resolveHome } from '../src/base/home.ts';
import { Counter, Histogram } from '../src/base/metrics.ts';
import { median } from '../src/base/statistics.ts';
import { MIB } from '../src/base/units.ts';
import { scrape } from '../src/cli/commands/top.ts';
import { frameOf, type Scrape } from '../src/cli/top/frame.ts';
import { draw, type View } from '../src/cli/top/picture.ts';
import { startFakeDaemon } from '../test/support/fake-daemon.ts';

const UPDATES = 100;
const NO_MARKS = { lastPressure: null, lastOom: null } as const;
const MICROSECONDS_PER_MS = 1000;

const cpuMs = (): number => {
  const { user, system } = process.cpuUsage();
  return (user + system) / MICROSECONDS_PER_MS;
};

async function serve(sandboxes: number): Promise<void> {
  const daemon = await startFakeDaemon();
  const tokens = new Counter('neurovisor_tokens_generated_total', 'x', ['model']);
  const ready = new Histogram('neurovisor_vm_acquire_seconds', 'x', ['origin']);
  daemon.metrics.add(tokens, ready);
  for (let n = 0; n < sandboxes; n += 1) {
    const { id } = await daemon.control.create({});
    const memoryBytes = (50 + (n % 460)) * MIB;
    daemon.loads.push({ id, state: 'ready', memoryBytes, modelRequests: n % 3, tokens: n, ...NO_MARKS });
    ready.observe({ origin: 'pool' }, n / 100);
  }
  let before = cpuMs();
  process.on('message', (asked) => {
    if (asked === 'end') {
      void daemon[Symbol.asyncDispose]().then(() => process.disconnect());
      return;
    }
    daemon.loads.forEach((load, n) => {
      daemon.loads[n] = { ...load, tokens: load.tokens + n };
    });
    tokens.add({ model: 'm' }, sandboxes);
    process.send?.({ cpuMs: cpuMs() - before });
    before = cpuMs();
  });
  process.send?.({ home: daemon.env['NEUROVISOR_HOME'] });
}

async function measure(sandboxes: number): Promise<void> {
  const child = fork(import.meta.filename, [`${sandboxes}`, 'serve']);
  const [{ home }] = (await once(child, 'message')) as [{ home: string }];
  const daemon = await connectDaemon({ socketPath: daemonSocket(resolveHome(home)) });
  const view: View = { sort: 'tokens', reverse: false, offset: 0, color: true, problem: null };
  const size = { columns: 120, rows: 40 };
  const [own, its, wall, drawn]: number[][] = [[], [], [], []];
  let last: Scrape | null = null;
  let shown: readonly string[] = [];
  for (let n = 0; n < UPDATES; n += 1) {
    child.send('next');
    const [{ cpuMs: daemonMs }] = (await once(child, 'message')) as [{ cpuMs: number }];
    const [began, cpuBegan] = [performance.now(), cpuMs()];
    const now: Scrape = await scrape(daemon);
    const lines = draw(frameOf(now, { last, oldest: last }, []), size, view);
    own?.push(cpuMs() - cpuBegan);
    wall?.push(performance.now() - began);
    its?.push(daemonMs);
    drawn?.push(lines.filter((line, at) => line !== shown[at]).join('').length);
    last = now;
    shown = lines;
  }
  await daemon[Symbol.asyncDispose]();
  child.send('end');
  await once(child, 'exit');
  // Frames before the code is compiled are not typical for an hour of use.
  const typical = (all: readonly number[] = []): number => median(all.slice(UPDATES / 4)) ?? 0;
  console.log(`${sandboxes} sandboxes, median of ${(UPDATES * 3) / 4} updates:`);
  console.log(`  top     ${typical(own).toFixed(1)} ms of a processor, ${typical(wall).toFixed(1)} ms until drawn`);
  console.log(`  daemon  ${typical(its).toFixed(1)} ms of a processor`);
  console.log(`  to the terminal  ${(typical(drawn) / 1024).toFixed(1)} KiB`);
}

const sandboxes = Number(process.argv[2] ?? 200);
await (process.argv[3] === 'serve' ? serve(sandboxes) : measure(sandboxes));
