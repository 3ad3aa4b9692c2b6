/** The words of `neurovisor run`. */
import type { Command } from 'commander';
import type { RunFlags } from '../commands/run/job.ts';
import { UsageError } from '../failure.ts';
import { type OutputFlags, perform } from './perform.ts';
import {
  addSandboxOptions,
  collect,
  jailOption,
  memoryMaxOption,
  NETWORK_HELP,
  output,
  vmmOption,
} from './shared-options.ts';

export function addRun(program: Command): void {
  const command = program
    .command('run')
    .summary('run a Python script in a fresh microVM')
    .description(
      'Starts a microVM, runs one Python script in it, streams its output and removes every trace. ' +
        'Where a daemon runs (neurovisor serve), the microVM comes out of its pool. Otherwise it goes on ' +
        'from a template that has Python modules imported; the first use builds that (a minute). ' +
        'Another size or warm list boots, unless `template build` has made a template of it. ' +
        'The guest has no network unless it is given one; OPENAI_BASE_URL in it leads to a model on this host. ' +
        "The exit status is the script's own (124: time limit, 125: NeuroVisor failed).\n\n" +
        'With -it, --no-template, --jail, --vmm, a .gguf file, NEUROVISOR_UPSTREAM, NEUROVISOR_ACCELERATOR, ' +
        'NEUROVISOR_JAIL, NEUROVISOR_VMM or NEUROVISOR_GPU the microVM is started in this process.',
    )
    .argument('[file]', 'Python script, or - for standard input')
    .argument('[args...]', 'arguments of the script; write them after --')
    .option('-c, --code <code>', 'run this code instead of a file')
    .option('-i, --interactive', 'with -t: stay connected to the console')
    .option('-t, --tty', "with -i: the guest's serial console on this terminal (Ctrl-] q leaves)")
    .option(
      '-e, --env <NAME=VALUE>',
      'variable for the script (NAME alone: as it is here)',
      collect,
      [],
    )
    .option('--copy <PATH[:TARGET]>', 'put a file or directory into the guest first', collect, []);
  // Of the two the parser keeps the last alone.
  const named = new Set<string>();
  for (const option of ['daemon', 'no-daemon']) {
    command.on(`option:${option}`, () => named.add(option));
  }
  addSandboxOptions(command)
    .option('--timeout <time>', 'end the script after this long, e.g. 90s or 5m')
    .addOption(memoryMaxOption())
    .option('--user <name>', 'guest user to run as: user or root (default user)')
    .option('--model <name>', 'model for the script: a name of the model server, or a .gguf file')
    .option('--no-template', 'boot, even where a template would start faster')
    .option('--daemon', 'fail if no daemon runs')
    .option('--no-daemon', 'start the microVM in this process, even where a daemon runs')
    .addOption(jailOption())
    .addOption(vmmOption())
    .option('--timings', 'print where the time went')
    .addOption(output())
    .addHelpText(
      'after',
      `
${NETWORK_HELP}
Examples:
  neurovisor run examples/agent.py
  neurovisor run -c 'import numpy; print(numpy.arange(3))'
  neurovisor run --memory 1G --timeout 5m script.py -- --verbose input.txt
  neurovisor run --allow-out pypi.org --allow-out '*.pythonhosted.org' script.py
  neurovisor run -it
`,
    )
    .action((file: string | undefined, args: string[], flags: RunFlags & OutputFlags) =>
      perform(flags, async (cli) => {
        if (named.size > 1) throw new UsageError('--daemon and --no-daemon exclude each other');
        const { run } = await import('../commands/run/run.ts');
        return flags.code === undefined || file === undefined
          ? await run(cli, file, args, flags)
          : await run(cli, undefined, [file, ...args], flags);
      }),
    );
}
