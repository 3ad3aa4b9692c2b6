/** The words for this machine and checkout: `setup`, `doctor`, `bench`. */
import type { Command } from 'commander';
import type { BenchFlags } from '../commands/bench.ts';
import type { DoctorFlags } from '../commands/doctor.ts';
import * as ranges from '../flags/ranges.ts';
import { describeLater } from './help.ts';
import { type OutputFlags, perform } from './perform.ts';
import { output } from './shared-options.ts';

export function addMachine(program: Command): void {
  program
    .command('setup')
    .summary('install and build what is missing')
    .description(
      'Installs host packages, builds kernel, golden image and template, fetches a small model. ' +
        'Everything is cached by digest; what is there already is not done again.',
    )
    .addOption(output())
    .action((flags: OutputFlags) =>
      perform(flags, async (cli) => (await import('../commands/setup.ts')).setup(cli)),
    );

  program
    .command('doctor')
    .summary('say what this machine can do')
    .description(
      'Tries each capability, says whether it works, and what to do where it does not. With --security: ' +
        'whether this host is set up as one that runs strangers’ code should be.',
    )
    .option('--security', 'audit the host instead: kernel, processor, memory, jail')
    .addOption(output())
    .action((flags: DoctorFlags & OutputFlags) =>
      perform(flags, async (cli) => (await import('../commands/doctor.ts')).doctor(cli, flags)),
    );

  const bench = program
    .command('bench')
    .summary('measure on this machine')
    .argument('[names...]', 'figures, e.g. boot.init, or groups, e.g. boot')
    .option('--rounds <n>', 'rounds per figure (default 10)', ranges.rounds)
    .addOption(output())
    .action((names: string[], flags: BenchFlags & OutputFlags) =>
      perform(flags, async (cli) =>
        (await import('../commands/bench.ts')).bench(cli, names, flags),
      ),
    );
  describeLater(bench, async () => {
    const { BENCHMARKS } = await import('../../bench/registry.ts');
    const figures = BENCHMARKS.map((one) => `  ${one.names.join(', ')}\n      ${one.summary}`);
    return `Prints median and p95 of each figure beside its baseline, measured in the same run.\n\nFigures:\n${figures.join('\n')}`;
  });
}
