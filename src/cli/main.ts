/** The `neurovisor` command. Parses words, runs one command, turns its outcome into an exit status. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command, CommanderError, Option } from 'commander';
import { BENCHMARKS } from '../bench/registry.ts';
import { type Config, readConfig } from '../config.ts';
import { Cli, HANDLED_SIGNALS } from './cli.ts';
import { type BenchFlags, bench } from './commands/bench.ts';
import { doctor } from './commands/doctor.ts';
import { type RunFlags, run } from './commands/run.ts';
import { setup } from './commands/setup.ts';
import {
  type TemplateFlags,
  templateBuild,
  templateInspect,
  templateList,
  templateRemove,
} from './commands/template.ts';
import { LAYER_NAMES, test } from './commands/test.ts';
import { EXIT_NEUROVISOR_FAILED, failureJson, failureText, UsageError } from './failure.ts';
import { parseCount } from './options.ts';

const root = join(import.meta.dirname, '../..');
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  version: string;
};

let json = false;

/** Runs one command and sets the exit status. */
async function perform(options: { output?: string }, body: (cli: Cli) => Promise<number>) {
  json = options.output === 'json';
  let cli: Cli | undefined;
  for (const signal of HANDLED_SIGNALS) {
    process.on(signal, () => cli?.handleSignal(signal));
  }
  try {
    const config: Config = readConfig(process.env);
    cli = new Cli({ streams: process, env: process.env, config, json });
    process.exitCode = await body(cli);
  } catch (error) {
    cli?.progress.close();
    fail(error, cli?.signalStatus ?? null);
  } finally {
    cli?.progress.close();
    if (!process.stdin.isTTY) process.stdin.destroy();
    else process.stdin.unref();
  }
}

function fail(error: unknown, signalStatus: number | null): void {
  if (signalStatus !== null) {
    process.exitCode = signalStatus;
    return;
  }
  process.exitCode = error instanceof UsageError ? 2 : EXIT_NEUROVISOR_FAILED;
  if (json) process.stdout.write(`${JSON.stringify(failureJson(error), null, 2)}\n`);
  else process.stderr.write(`${failureText(error)}\n`);
}

const collect = (value: string, previous: readonly string[]): string[] => [...previous, value];
const output = (): Option =>
  new Option('-o, --output <format>', 'how results are printed').choices(['text', 'json']);

const program = new Command('neurovisor')
  .description('Run AI agents in microVMs; their models stay on the host.')
  .version(version)
  .showHelpAfterError('(neurovisor --help shows what there is)')
  .exitOverride();

program
  .command('run')
  .summary('run a Python script in a fresh microVM')
  .description(
    'Starts a microVM, runs one Python script in it, streams its output and removes every trace.\n' +
      'It goes on from a template that has Python modules imported; the first use builds that (a minute).\n' +
      'Another size or warm list boots, unless `template build` has made a template of it.\n' +
      'The guest has no network; OPENAI_BASE_URL in it leads to a model on this host.\n' +
      "The exit status is the script's own (124: time limit, 125: NeuroVisor failed).",
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
  .option('--copy <PATH[:TARGET]>', 'put a file or directory into the guest first', collect, [])
  .option('--cpus <n>', 'virtual CPUs (default 1)', parseCount)
  .option('--memory <size>', 'guest memory, e.g. 512M or 2G (default 512M)')
  .option('--disk <size>', 'room for what the guest writes (default 2G)')
  .option('--timeout <time>', 'end the script after this long, e.g. 90s or 5m')
  .option('--user <name>', 'guest user to run as: user or root (default user)')
  .option('--model <name>', 'model for the script: a name of the model server, or a .gguf file')
  .option('--alias <ASKED=OFFERED>', 'answer for this model name with that one', collect, [])
  .option('--allow-model <name>', 'let the guest use only these models', collect, [])
  .option('--warm <module>', 'import this in the fork server before the script', collect, [])
  .option('--rate <bytes>', 'limit the channel each way, bytes per second, e.g. 5M')
  .option('--no-template', 'boot, even where a template would start faster')
  .option('--timings', 'print where the time went')
  .addOption(output())
  .addHelpText(
    'after',
    `
Examples:
  neurovisor run examples/agent.py
  neurovisor run -c 'import numpy; print(numpy.arange(3))'
  neurovisor run --memory 1G --timeout 5m script.py -- --verbose input.txt
  neurovisor run -it
`,
  )
  .action((file: string | undefined, args: string[], flags: RunFlags & { output?: string }) =>
    perform(flags, (cli) =>
      flags.code === undefined || file === undefined
        ? run(cli, file, args, flags)
        : run(cli, undefined, [file, ...args], flags),
    ),
  );

const template = program
  .command('template')
  .summary('what sandboxes start from')
  .description(
    'A template is a booted guest with modules imported, kept without identity; `run` starts copies of it.',
  );
template
  .command('build')
  .summary('build a template, unless it is there')
  .option('--cpus <n>', 'virtual CPUs (default 1)', parseCount)
  .option('--memory <size>', 'guest memory (default 512M)')
  .option('--disk <size>', 'room for what the guest writes (default 2G)')
  .option('--warm <module>', 'import this instead of the default list', collect, [])
  .addOption(output())
  .action((flags: TemplateFlags & { output?: string }) =>
    perform(flags, (cli) => templateBuild(cli, flags)),
  );
template
  .command('ls')
  .summary('list the templates of this machine')
  .addOption(output())
  .action((flags: { output?: string }) => perform(flags, templateList));
template
  .command('inspect')
  .summary('tell what a template was made from')
  .argument('<key>', 'the key, or its beginning')
  .addOption(output())
  .action((key: string, flags: { output?: string }) =>
    perform(flags, (cli) => templateInspect(cli, key)),
  );
template
  .command('rm')
  .summary('remove templates')
  .argument('<keys...>', 'keys, or their beginnings')
  .addOption(output())
  .action((keys: string[], flags: { output?: string }) =>
    perform(flags, (cli) => templateRemove(cli, keys)),
  );

program
  .command('setup')
  .summary('install and build what is missing')
  .description(
    'Installs host packages, builds kernel, golden image and template, fetches a small model.\n' +
      'Everything is cached by digest; what is there already is not done again.',
  )
  .addOption(output())
  .action((flags: { output?: string }) => perform(flags, setup));

program
  .command('doctor')
  .summary('say what this machine can do')
  .description('Tries each capability, says whether it works, and what to do where it does not.')
  .addOption(output())
  .action((flags: { output?: string }) => perform(flags, doctor));

program
  .command('bench')
  .summary('measure on this machine')
  .description(
    `Prints median and p95 of each figure beside its baseline, measured in the same run.\n\nFigures:\n${BENCHMARKS.map(
      (one) => `  ${one.names.join(', ')}\n      ${one.summary}`,
    ).join('\n')}`,
  )
  .argument('[names...]', 'figures, e.g. boot.init, or groups, e.g. boot')
  .option('--rounds <n>', 'rounds per figure (default 10)', parseCount)
  .addOption(output())
  .action((names: string[], flags: BenchFlags & { output?: string }) =>
    perform(flags, (cli) => bench(cli, names, flags)),
  );

program
  .command('test')
  .summary('run the tests of this checkout')
  .description(`Runs all tests, or the layers that are named: ${LAYER_NAMES.join(', ')}.`)
  .argument('[layers...]')
  .action((layers: string[]) => perform({}, (cli) => test(cli, layers)));

try {
  await program.parseAsync();
} catch (error) {
  if (!(error instanceof CommanderError)) throw error;
  // Commander has printed its message; `--help` and `--version` are no errors.
  process.exitCode = error.exitCode === 0 ? 0 : 2;
}
