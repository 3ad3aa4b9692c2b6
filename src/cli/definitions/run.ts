/** Definition of `neurovisor run`. */
import type { Command } from 'commander';
import type { RunFlags } from '../commands/run/job.ts';
import { UsageError } from '../failure.ts';
import { RUN_FIELDS } from '../flags/sandbox-fields.ts';
import { moreOptionsText, sortOptions, whenAll, wrapped } from './help.ts';
import { type OutputFlags, perform } from './perform.ts';
import {
  addFieldGroups,
  collect,
  jailOption,
  NETWORK_HELP,
  output,
  recordOption,
  replayOption,
  vmmOption,
  WORKDIR,
} from './shared-options.ts';

/** How the microVM is made and what the script finds in it. */
const DETAILS =
  'If a daemon is running (neurovisor serve), the microVM comes from its warm pool. Otherwise it is cloned ' +
  'from a template with Python modules imported; the first run builds the template, which takes a minute. ' +
  'Another size or list of modules boots instead, unless `neurovisor template create` has built a template ' +
  'for it. --template starts from one by its name.\n\n' +
  'The microVM starts in this process, not in the daemon, with -it (without --image or --build), --boot, ' +
  '--jail, --vmm, --record, --replay, a .gguf file or pulled model, NEUROVISOR_UPSTREAM, ' +
  'NEUROVISOR_ACCELERATOR, NEUROVISOR_JAIL, NEUROVISOR_VMM or NEUROVISOR_GPU.\n\n' +
  'Packages: a script has those of its own metadata (PEP 723), or else those that the pyproject.toml beside it ' +
  'names, or the next one above it, up to the current directory; not with --template, --image, --build or ' +
  '--boot. --with .[dev] adds an extra or a dependency group of the project here.\n\n' +
  'The script runs in the home of the guest user, with the files of --copy beside it: copied modules can be ' +
  'imported, and relative paths lead to copied files. If --copy includes the script, it runs from its place ' +
  'there.\n\n' +
  'A project comes along as a whole: DIR runs its __main__.py, and -m a module of the current directory, as ' +
  'python3 does. --project copies a directory and starts the script in it. What .gitignore and .dockerignore ' +
  'list stays here, and so do .git, .venv, __pycache__ and node_modules; limits: 20,000 files, 1 GiB.\n\n' +
  'With --image, or a --template of an image, programs and scripts run in a container image instead of the ' +
  'built-in system. Without a script it works as docker run does: the entrypoint of the image runs with what ' +
  'follows --, or with the command of the image, as the user and in the directory that the image names; -it ' +
  'gives the program a terminal. A script needs a Python 3.10 or newer in the image.\n\n' +
  'With --build, the image is built first, from the Dockerfile of a directory: each step in a microVM ' +
  'without a network, packages through the package gateway. Steps that have not changed come from the cache; ' +
  '--cpus, --memory, --disk and --net are for the sandbox, not for the build. For values of ARG, another stage ' +
  'or file, secrets, or a network for the steps: neurovisor image build -t NAME, then run --image NAME.\n\n' +
  'With --record, all requests of the script to models are kept in a file with their answers; --replay ' +
  'answers them from it, without a model or network, and refuses any other request.';

export function addRun(program: Command): void {
  const command = program
    .command('run')
    .summary('run a Python script in a fresh microVM')
    .description(
      'Start a microVM, run a Python script in it, stream its output, and remove the microVM. The guest has no ' +
        'network by default; OPENAI_BASE_URL in the guest points to a model on this host.\n\n' +
        'Exit status: that of the script, or 122 a request was not in the cassette of --replay, 123 the script ' +
        'succeeded but --out or --sync did not, 124 timeout, 125 NeuroVisor failed, 126 or 127 the program of an ' +
        'image can’t be executed or found, 128+n ended by signal n, 2 usage error.',
    )
    .argument('[file]', 'Python script, directory with __main__.py, or - for standard input')
    .argument('[args...]', 'arguments of the script; with --image or --build and no script, the program, after --')
    .optionsGroup('What to run:')
    .option('-c, --code <code>', 'run this code instead of a file')
    .option('-m, --module <name>', 'run a module of the current directory instead, as python3 -m')
    .option('-i, --interactive', 'with -t: keep standard input connected to the console')
    .option(
      '-t, --tty',
      'with -i: attach to the serial console of the guest, or to the program of --image or --build (Ctrl-] q to leave)',
    )
    .option(
      '--entrypoint <program>',
      'with --image, --build, or a --template of an image: program to run instead of its entrypoint and command; "": only what follows --',
    )
    .option('--user <name>', 'guest user: user or root (default: user, or that of the image)')
    .option(...WORKDIR)
    .optionsGroup('Files:')
    .option(
      '--copy <PATH[:TARGET]>',
      'copy a file or directory into the guest first, as cp does (default target: the home of the guest user; ' +
        'repeatable)',
      collect,
      [],
    )
    .option(
      '--out <PATH[:HOST]>',
      'copy a file or directory of the guest here after the script, as cp does, even if the script failed ' +
        '(default HOST: the same name in the current directory; repeatable)',
      collect,
      [],
    )
    .option('--project <dir>', 'copy this directory into the guest and start the script in it')
    .option(
      '--sync',
      'show the changes of the script in --project and write them back after a question; conflicts are kept',
    )
    .option('-y, --yes', 'with --sync: write the changes without a question')
    .optionsGroup('Models:')
    .option(
      '--model <name>',
      'default model of the guest: a name on the model server, a pulled model, or a .gguf file',
    );
  addFieldGroups(command, RUN_FIELDS)
    .option('--timeout <time>', 'time limit of the script, for example 90s or 5m (default: none)')
    .optionsGroup('What to run:')
    .option('--no-requirements', 'do not install what the script (PEP 723) or the pyproject.toml of its project names')
    .option('--python <version>', 'run with this Python: 3.11 is built in, 3.10 and 3.12 to 3.14 are official images')
    .optionsGroup('Models:')
    .addOption(recordOption())
    .addOption(replayOption())
    .optionsGroup('How it runs:')
    .option('--daemon', 'fail if no daemon is running')
    .option('--no-daemon', 'start the microVM in this process, even if a daemon is running')
    .addOption(jailOption())
    .addOption(vmmOption())
    .option('--watch', 'run again when the script, its project or what --copy names changes')
    .option('--timings', 'print a time breakdown')
    .addOption(output())
    .addHelpText('after', () => moreOptionsText(command))
    .addHelpText('after', () => whenAll(`\n${wrapped(DETAILS)}\n${NETWORK_HELP}`))
    .addHelpText(
      'after',
      `
Examples:
  neurovisor run examples/agent.py
  neurovisor run -c 'import numpy; print(numpy.arange(3))'
  neurovisor run --copy helper.py --copy data main.py
  neurovisor run --copy . src/main.py
  neurovisor run app                        # app/__main__.py, with the files of app
  neurovisor run -m app.report --year 2026
  neurovisor run --out plots --out result.csv:/tmp/result.csv script.py
  neurovisor run --project . --sync refactor.py
  neurovisor run --memory 1G --timeout 5m script.py --verbose input.txt
  neurovisor run --allow-out pypi.org --allow-out '*.pythonhosted.org' script.py
  neurovisor run --with pandas,matplotlib plot.py
  neurovisor run --template data plot.py
  neurovisor run --record agent.json agent.py
  neurovisor run --replay agent.json agent.py
  neurovisor run -it
  neurovisor run --image python:3.13-slim script.py
  neurovisor run --image alpine -- cat /etc/os-release
  neurovisor run -it --image debian -- bash
  neurovisor run --build .                  # ./Dockerfile: its ENTRYPOINT and CMD
  neurovisor run --build agent -- --verbose # other arguments than its CMD
`,
    )
    .action((file: string | undefined, args: string[], flags: RunFlags & OutputFlags) => {
      const raw = (command.parent as Command & { rawArgs?: string[] }).rawArgs ?? [];
      return perform(flags, async (cli) => {
        if (given.size > 1) throw new UsageError('--daemon and --no-daemon are mutually exclusive', 'omit one of them');
        const { run } = await import('../commands/run/run.ts');
        const { isOfImage, namesProgram } = await import('../commands/run/program.ts');
        const { resolveHome } = await import('../../base/home.ts');
        const { hasImage } = await import('../commands/run/job.ts');
        if (flags.code !== undefined && flags.module !== undefined)
          throw new UsageError('-c and -m are mutually exclusive', 'omit one of them');
        const isFile = flags.code === undefined && flags.module === undefined;
        const runsPrograms = async (): Promise<boolean> =>
          hasImage(flags) ||
          flags.entrypoint !== undefined ||
          (await isOfImage(resolveHome(cli.config.home).dir, flags.template));
        if (isFile && namesProgram(command.args, raw) && (await runsPrograms()))
          return await run(cli, file, args, flags, true);
        return isFile || file === undefined
          ? await run(cli, file, args, flags)
          : await run(cli, undefined, [file, ...args], flags);
      });
    });
  // Commander keeps only the last of the two.
  const given = new Set<string>();
  for (const option of ['daemon', 'no-daemon']) {
    command.on(`option:${option}`, () => given.add(option));
  }
  sortOptions(command, [
    '--code',
    '--module',
    '--env',
    '--with',
    '--copy',
    '--out',
    '--project',
    '--image',
    '--allow-out',
    '--model',
    '--memory',
    '--timeout',
  ]);
}
