/**
 * Entry of `./neurovisor seccomp`: which syscalls the threads of a VMM may make. The npm package does not contain it.
 */
import { Option } from 'commander';
import { type OutputFlags, perform } from '../../src/cli/definitions/perform.ts';
import { output, vmmOption } from '../../src/cli/definitions/shared-options.ts';
import { runTool, toolProgram } from '../tool-program.ts';
import type { CompileFlags, LearnFlags, ReachFlags } from './commands.ts';

const load = () => import('./commands.ts');

const architecture = (): Option =>
  new Option('--arch <name>', 'processor architecture: x86_64 or aarch64 (default: that of this host)').choices([
    'x86_64',
    'aarch64',
  ]);

const seccomp = toolProgram('seccomp').description(
  'Inspect and compile seccomp profiles. A profile lists the system calls that each thread of a VMM may ' +
    "make, in the format of Firecracker's filter files. The profiles in use are in policy/.",
);
seccomp
  .command('check')
  .summary('validate profiles')
  .description('Validate profiles, and print their sizes. Exit status 1: a profile is invalid.')
  .argument('<files...>')
  .addOption(architecture())
  .addOption(output())
  .action((files: string[], flags: OutputFlags & { arch?: string }) =>
    perform(flags, async (cli) => (await load()).seccompCheck(cli, files, flags)),
  );
seccomp
  .command('explain')
  .summary('show what a profile allows, and why')
  .description('Show the rules of a profile, with the reason for each, for all threads or one.')
  .argument('<file>')
  .argument('[thread]')
  .option('--program', 'show the compiled BPF instructions')
  .addOption(architecture())
  .addOption(output())
  .action((file: string, thread: string | undefined, flags: OutputFlags & { arch?: string; program?: boolean }) =>
    perform(flags, async (cli) => (await load()).seccompExplain(cli, file, thread, flags)),
  );
seccomp
  .command('reach')
  .summary('count the system calls that a jailed VMM can make')
  .description(
    'Start a jailed VMM and read the filters of each of its threads back from the kernel. A thread can make ' +
      'a call if all of its filters allow it. Needs root.',
  )
  .addOption(vmmOption())
  .option('--calls', 'also list the calls by name')
  .addOption(output())
  .action((flags: OutputFlags & ReachFlags) => perform(flags, async (cli) => (await load()).seccompReach(cli, flags)));
seccomp
  .command('compile')
  .summary('compile a profile')
  .description('Compile a profile to a BPF program for the kernel, or to a filter file for Firecracker.')
  .argument('<file>')
  .requiredOption('--out <path>', 'output file')
  .option('--thread <name>', 'thread to compile, if the profile has several')
  .option('--firecracker <version>', 'write a file for the --seccomp-filter option of this version, for example 1.16.1')
  .addOption(
    new Option('--mode <mode>', 'enforce, or log (allow and log forbidden calls)')
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
  .summary('generate a profile from a traced run')
  .description(
    'Run a command under strace, or read strace output, and print a profile that allows the observed calls. ' +
      'Review it: calls that this run did not make are missing, and unwanted calls are included.',
  )
  .argument(
    '<words...>',
    'command to run, after --; with --traces, files written by strace -f -qq -e raw=!prctl,execve -o FILE',
  )
  .option('--program <name>', 'use the calls since the last start of this program')
  .option('--traces', 'read strace output files instead of running a command')
  .option('--thread <name>', 'name of the filter; firecracker: one filter for each of its threads', 'qemu')
  .addOption(
    new Option(
      '--since <what>',
      'where to start: exec (the last program start) or filter (once the program installed its own filter)',
    )
      .choices(['exec', 'filter'])
      .default('exec'),
  )
  .action((words: string[], flags: LearnFlags) =>
    perform({}, async (cli) => (await load()).seccompLearn(cli, words, flags)),
  );

await runTool(seccomp);
