/**
 * `neurovisor test`: all tests of this checkout, layer by layer, cheapest first. Ends with the line
 * `N passed, N failed`, and `, N skipped` where this machine can't do something; each skip says why.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { SOURCE_DIR } from '../../runtime/runtime.ts';
import { ensureTestPackages } from '../../runtime/setup.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { duration } from '../output/table.ts';
import { openRuntime } from './open-runtime.ts';
import { type Failure, showFailures, vitest } from './test-report.ts';
import { tool as command } from './test-tool.ts';

/** What a layer came to; `failures` has the tests that failed, for the end of the output. */
interface Counts {
  passed: number;
  failed: number;
  skipped: number;
  readonly failures?: readonly Failure[];
}

interface Layer {
  readonly name: string;
  /** VMs are booted: the machine must be set up first. */
  readonly needsSetup?: boolean;
  /** Other programs take part. */
  readonly needsPackages?: boolean;
  run(cli: Cli): Promise<Counts>;
}

const LAYERS: readonly Layer[] = [
  { name: 'check', run: check },
  { name: 'unit', run: (cli) => vitest(cli, ['tidy', 'unit', 'prop']) },
  { name: 'guest', run: guestTests },
  { name: 'component', needsPackages: true, run: (cli) => vitest(cli, ['component']) },
  { name: 'vm', needsPackages: true, needsSetup: true, run: (cli) => vitest(cli, ['vm']) },
  { name: 'e2e', needsSetup: true, run: (cli) => vitest(cli, ['e2e']) },
];

export const LAYER_NAMES: readonly string[] = LAYERS.map((layer) => layer.name);

/** @param names layers to run; none: all */
export async function test(cli: Cli, names: readonly string[]): Promise<number> {
  const unknown = names.find((name) => !LAYER_NAMES.includes(name));
  if (unknown !== undefined) {
    throw new UsageError(`no layer "${unknown}"`, `layers: ${LAYER_NAMES.join(', ')}`);
  }
  if (!existsSync(join(SOURCE_DIR, 'vitest.config.ts'))) {
    throw new UsageError('the npm package has no tests', 'run `./neurovisor test` in a clone');
  }
  const layers = LAYERS.filter((layer) => names.length === 0 || names.includes(layer.name));
  const total: Counts = { passed: 0, failed: 0, skipped: 0 };
  const failures: Failure[] = [];
  if (layers.some((layer) => layer.needsPackages === true)) {
    await ensureTestPackages({
      progress: cli.progress.report,
      signal: cli.cancelled,
      log: cli.log,
    });
  }
  if (layers.some((layer) => layer.needsSetup === true)) await setUp(cli);
  else cli.progress.close();
  for (const layer of layers) {
    cli.cancelled.throwIfAborted();
    const began = performance.now();
    cli.stdout.write(`\n== ${layer.name}\n`);
    const counts = await layer.run(cli);
    total.passed += counts.passed;
    total.failed += counts.failed;
    total.skipped += counts.skipped;
    failures.push(...(counts.failures ?? []));
    cli.stdout.write(
      `== ${layer.name}: ${summary(counts)} in ${duration(performance.now() - began)}\n`,
    );
  }
  cli.stdout.write(`${showFailures(failures)}\n${summary(total)}\n`);
  return total.failed === 0 ? 0 : 1;
}

function summary({ passed, failed, skipped }: Counts): string {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`;
}

async function setUp(cli: Cli): Promise<void> {
  // The tests use the engine and its model even where another model server is at hand.
  await using _runtime = await openRuntime(cli, { config: { ...cli.config, upstream: 'engine' } });
}

async function check(cli: Cli): Promise<Counts> {
  const counts: Counts = { passed: 0, failed: 0, skipped: 0 };
  for (const [tool, ...args] of [['biome', 'ci', '.'], ['tsc']]) {
    const status = await command(cli, [join(SOURCE_DIR, 'node_modules/.bin', tool ?? ''), ...args]);
    if (status === 0) counts.passed += 1;
    else counts.failed += 1;
  }
  return counts;
}

/**
 * The agent's own tests, by Python's unittest, which prints `Ran N tests` and `FAILED (failures=N)`. The agent
 * sets up the machine that it is on: as root, its tests get no card and no host name but their own.
 */
async function guestTests(cli: Cli): Promise<Counts> {
  let output = '';
  const alone = process.geteuid?.() === 0 ? ['unshare', '--net', '--uts', '--'] : [];
  const argv = [
    ...alone,
    'python3',
    '-m',
    'unittest',
    'discover',
    '-s',
    join(SOURCE_DIR, 'guest/tests'),
  ];
  const status = await command(cli, argv, (text) => {
    output += text;
  });
  const ran = Number(/Ran (\d+) tests?/.exec(output)?.[1] ?? 0);
  const count = (word: string): number =>
    Number(new RegExp(`${word}=(\\d+)`).exec(output)?.[1] ?? 0);
  const skipped = count('skipped');
  const failed = count('failures') + count('errors');
  return {
    passed: ran - failed - skipped,
    failed: failed === 0 && (status !== 0 || ran === 0) ? 1 : failed,
    skipped,
  };
}
