/** `neurovisor bench`: measures on this machine and prints median, p95 and the baseline beside them. */
import { assert } from '../src/base/assert.ts';
import type { BenchFlags } from '../src/cli/beside.ts';
import type { Cli } from '../src/cli/cli.ts';
import { openRuntime } from '../src/cli/commands/open-runtime.ts';
import { UsageError } from '../src/cli/failure.ts';
import { table } from '../src/cli/output/table.ts';
import { type Benchmark, type BenchResult, isWanted, resultOf } from './benchmark.ts';
import { BENCHMARKS } from './registry.ts';

const ROUNDS_DEFAULT = 10;

/** @param names benchmarks, or prefixes up to a dot or slash (`boot`, `fork.ready`); if empty, all */
export async function bench(cli: Cli, names: readonly string[], flags: BenchFlags): Promise<number> {
  const chosen = choose(names);
  const needsRuntime = chosen.some(({ withoutRuntime }) => withoutRuntime !== true);
  await using runtime = needsRuntime ? await openRuntime(cli) : null;
  cli.progress.close();
  const results: BenchResult[] = [];
  for (const benchmark of chosen) {
    const measured = await benchmark.measure({
      get runtime() {
        assert(runtime !== null, 'a benchmark without a runtime asks for it');
        return runtime;
      },
      config: cli.config,
      rounds: flags.rounds ?? ROUNDS_DEFAULT,
      signal: cli.cancelled,
      log: cli.log,
      wants: (name) => isWanted(name, names),
      say: (text) => {
        if (cli.stderr.isTTY) cli.stderr.write(`\r\x1b[K${benchmark.names[0]}: ${text}`);
      },
    });
    results.push(...measured.map(resultOf).filter((one) => isWanted(one.name, names)));
  }
  if (cli.stderr.isTTY) cli.stderr.write('\r\x1b[K');
  if (cli.json) cli.printJson(results);
  else {
    const on = runtime === null ? '' : `\non ${runtime.driver.description}`;
    cli.stdout.write(`${resultTable(results)}${on}\n`);
  }
  return 0;
}

export function description(): string {
  const figures = BENCHMARKS.map((one) => `  ${one.names.join(', ')}\n      ${one.summary}`);
  return `Run benchmarks, and print median and p95 beside a baseline measured in the same run.\n\nBenchmarks:\n${figures.join('\n')}`;
}

function choose(names: readonly string[]): readonly Benchmark[] {
  const known = BENCHMARKS.flatMap((benchmark) => benchmark.names);
  for (const name of names) {
    if (!known.some((one) => isWanted(one, [name]))) {
      const groups = [...new Set(known.map((one) => one.split('.', 1)[0]))].join(', ');
      throw new UsageError(
        `unknown benchmark "${name}"`,
        `use a group (${groups}), or a benchmark from: neurovisor bench --help`,
      );
    }
  }
  return BENCHMARKS.filter((one) => one.names.some((name) => isWanted(name, names)));
}

export function resultTable(results: readonly BenchResult[]): string {
  const number = (value: number | null): string => {
    if (value === null) return '-';
    return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
  };
  const rows = results.map((one) => [
    one.name,
    one.unit,
    number(one.p50),
    number(one.p95),
    `${one.n}`,
    `${(one.success * 100).toFixed(0)} %`,
    one.accelerator,
    one.baseline === null ? '-' : `${one.baseline.name}: ${number(one.baseline.p50)}`,
    one.ratio === null ? '-' : `${one.ratio.toFixed(2)}×`,
  ]);
  const notes = results.flatMap((one) => (one.note === null ? [] : [`${one.name}: ${one.note}`]));
  const heads = ['name', 'unit', 'p50', 'p95', 'n', 'ok', 'accelerator', 'baseline p50', 'ratio'];
  return [table(heads, rows), ...notes].join('\n');
}
