/** The words of `seccomp`: which system calls the threads of a VMM may make. */
import { type Command, Option } from 'commander';
import type { CompileFlags, LearnFlags, ReachFlags } from '../commands/seccomp.ts';
import { type OutputFlags, perform } from './perform.ts';
import { output, vmmOption } from './shared-options.ts';

const load = () => import('../commands/seccomp.ts');

const architecture = (): Option =>
  new Option('--arch <name>', 'processor (default: of this host)').choices(['x86_64', 'aarch64']);

export function addSeccomp(program: Command): void {
  const seccomp = program
    .command('seccomp')
    .summary('look at and compile seccomp profiles')
    .description(
      'Profiles say which system calls each thread of a VMM may make; those of this product are in policy/. ' +
        "The form is that of Firecracker's filter files.",
    );
  seccomp
    .command('check')
    .summary('say whether profiles are sound')
    .argument('<files...>')
    .addOption(architecture())
    .addOption(output())
    .action((files: string[], flags: OutputFlags & { arch?: string }) =>
      perform(flags, async (cli) => (await load()).seccompCheck(cli, files, flags)),
    );
  seccomp
    .command('explain')
    .summary('show what a profile allows, and why')
    .argument('<file>')
    .argument('[thread]')
    .option('--program', 'the instructions that it is compiled to')
    .addOption(architecture())
    .addOption(output())
    .action(
      (
        file: string,
        thread: string | undefined,
        flags: OutputFlags & { arch?: string; program?: boolean },
      ) => perform(flags, async (cli) => (await load()).seccompExplain(cli, file, thread, flags)),
    );
  seccomp
    .command('reach')
    .summary('count the system calls that a VMM can make in its jail')
    .description(
      'Starts a jailed VMM (as root) and reads the filters of each of its threads from the kernel. All of a thread ' +
        'must let a call pass. Exit status 0: they could be read.',
    )
    .addOption(vmmOption())
    .option('--calls', 'name them')
    .addOption(
      new Option(
        '--allow-older',
        'for tests: also a Firecracker that sandboxes do not take',
      ).hideHelp(),
    )
    .addOption(output())
    .action((flags: OutputFlags & ReachFlags) =>
      perform(flags, async (cli) => (await load()).seccompReach(cli, flags)),
    );
  seccomp
    .command('compile')
    .summary('write the program for the kernel, or the file for Firecracker')
    .argument('<file>')
    .requiredOption('--out <path>', 'where to')
    .option('--thread <name>', 'of which thread, where there are several')
    .option('--firecracker <version>', 'a file for its --seccomp-filter, e.g. 1.16.1')
    .addOption(
      new Option('--mode <mode>', 'log: let through and log what is refused')
        .choices(['enforce', 'log'])
        .default('enforce'),
    )
    .addOption(architecture())
    .addOption(output())
    .action((file: string, flags: OutputFlags & CompileFlags) =>
      perform(flags, async (cli) => (await load()).seccompCompile(cli, file, flags)),
    );
  seccomp
    .command('learn')
    .summary('propose a profile from what a program does')
    .description(
      'Runs a command under strace, or reads what strace wrote, and prints a profile that allows what was ' +
        'seen. What the run did not need is missing, and what it should not have done is there: read it.',
    )
    .argument(
      '<words...>',
      'the command after --; or files of strace -f -qq -e raw=!prctl,execve -o FILE',
    )
    .option('--program <name>', 'count the calls of the last program of this name that was started')
    .option('--traces', 'the words are files')
    .option(
      '--thread <name>',
      'name of the filter; firecracker: one for each of its threads',
      'qemu',
    )
    .addOption(
      new Option(
        '--since <what>',
        'from where on calls count: the last program started, or its own filter',
      )
        .choices(['exec', 'filter'])
        .default('exec'),
    )
    .action((words: string[], flags: LearnFlags) =>
      perform({}, async (cli) => (await load()).seccompLearn(cli, words, flags)),
    );
}
