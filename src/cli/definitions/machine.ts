/** Definitions of the commands for this machine: `setup`, `doctor`, `bench`. */
import { type Command, Option } from 'commander';
import { type BenchFlags, loadBeside } from '../beside.ts';
import type { PruneFlags } from '../commands/disk.ts';
import type { DoctorFlags } from '../commands/doctor.ts';
import type { SetupFlags } from '../commands/setup.ts';
import * as ranges from '../flags/ranges.ts';
import { describeLater } from './help.ts';
import { type OutputFlags, perform } from './perform.ts';
import { output } from './shared-options.ts';

export function addMachine(program: Command): void {
  program
    .command('setup')
    .summary('install and build what is missing')
    .description(
      'Install host packages, unpack the guest kernel, build the golden image and the default template, and download ' +
        'a small model. Results are cached by digest: only what is missing is made.',
    )
    .option(
      '--firecracker <file|url>',
      'install Firecracker and its jailer from this release archive (.tgz) or directory; needs --sha256',
    )
    .option(
      '--sha256 <digest>',
      'SHA-256 of that archive, or of firecracker and jailer in that directory, separated by a comma',
    )
    .option('--build-kernel', 'build the guest kernel and its init from source here, and use them from now on')
    .option('--no-build-kernel', 'use the prebuilt ones again (default)')
    .addOption(output())
    .action((flags: SetupFlags & OutputFlags) =>
      perform(flags, async (cli) => (await import('../commands/setup.ts')).setup(cli, flags)),
    );

  program
    .command('doctor')
    .summary('check what this machine supports')
    .description(
      'Check each capability, and print how to fix what does not work. With --security, check whether this ' +
        'host is hardened for untrusted code. With --report, print what an issue should say about this host: ' +
        'versions, processor, KVM, jail, and measured starts if it is set up; no names, paths, addresses or keys. ' +
        'Exit status 1: something required is missing.',
    )
    .addOption(new Option('--report', 'print a report of this host for an issue, in Markdown').conflicts('security'))
    .option('--security', 'check the security of the host instead: kernel, processor, memory, jail')
    .addOption(
      new Option('--network', 'check instead whether sandboxes can have a network here').conflicts([
        'security',
        'report',
      ]),
    )
    .option('--clean', 'with --network: first remove what dead processes left behind: TAPs, rules, ip_forward, records')
    .addOption(output())
    .action((flags: DoctorFlags & OutputFlags) =>
      perform(flags, async (cli) => (await import('../commands/doctor.ts')).doctor(cli, flags)),
    );

  addDisk(program);
  const bench = program
    .command('bench')
    .summary('run benchmarks on this machine')
    .argument('[names...]', 'benchmarks, for example boot.init, or groups, for example boot (default: all)')
    .option('--rounds <n>', 'rounds per benchmark (default: 10)', ranges.rounds)
    .addOption(output())
    .action((names: string[], flags: BenchFlags & OutputFlags) =>
      perform(flags, async (cli) => (await loadBeside('bench')).bench(cli, names, flags)),
    );
  describeLater(bench, async () => (await loadBeside('bench')).description());
}

function addDisk(program: Command): void {
  const load = () => import('../commands/disk.ts');
  program
    .command('df')
    .summary('show what the home takes on the disk')
    .description('Show what the home (NEUROVISOR_HOME) takes on the disk, by kind, and how much `prune` would free.')
    .addOption(output())
    .action((flags: OutputFlags) => perform(flags, async (cli) => (await load()).df(cli)));
  program
    .command('prune')
    .summary('free disk space')
    .description(
      'Remove templates and images without a name. Sandboxes, snapshots, named templates and images, and models stay.',
    )
    .option('-a, --all', 'also remove cached steps of Dockerfiles and cached packages')
    .addOption(output())
    .addHelpText('after', '\nExamples:\n  neurovisor df\n  neurovisor prune --all\n')
    .action((flags: OutputFlags & PruneFlags) => perform(flags, async (cli) => (await load()).prune(cli, flags)));
}
