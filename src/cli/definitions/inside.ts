/** The words for what happens in a sandbox: `exec`, `shell`, `cp`, `port`, `ps`. */
import { type Command, Option } from 'commander';
import type { CopyFlags } from '../commands/cp.ts';
import type { ExecFlags } from '../commands/exec.ts';
import type { PortFlags } from '../commands/port.ts';
import { type OutputFlags, performThere } from './perform.ts';
import { collect, output } from './shared-options.ts';

const programs = () => import('../commands/exec.ts');
const copies = () => import('../commands/cp.ts');
const forwards = () => import('../commands/port.ts');

export function addInside(program: Command): void {
  addExec(program);
  addShell(program);
  addCopy(program);
  addPort(program);
  addProcesses(program);
}

const ENV = ['-e, --env <NAME=VALUE>', 'variable for it (NAME alone: as it is here)'] as const;
const USER = ['--user <name>', 'guest user: user or root (default user)'] as const;

function addExec(program: Command): void {
  program
    .command('exec')
    .summary('run a program in a sandbox')
    .showHelpAfterError('(options of the program go after --: neurovisor exec ID -- ls -l)')
    .description(
      'Runs a program, or Python code, in a sandbox. Its output and exit status are those of this command ' +
        '(124: time limit, 125: NeuroVisor failed, 126: not a program, 127: there is no such program). Standard input goes to it unless that is a terminal. ' +
        'Ctrl-C goes to the program; a second one ends it.',
    )
    .argument('<id>', 'the sandbox')
    .argument('[program...]', 'program and arguments; write them after --')
    .option('-c, --code <code>', 'Python code, in a fork of the warmed interpreter')
    .option('-i, --interactive', 'pass a terminal on as standard input too')
    .option('-t, --tty', 'run it on a terminal like this one (Ctrl-] q leaves)')
    .option(...ENV, collect, [])
    .option(...USER)
    .option('--cwd <dir>', "where it starts (default: the user's home)")
    .option('--timeout <time>', 'end it after this long, e.g. 90s or 5m')
    .option('--detach', 'let it run, and print its pid')
    .addOption(output())
    .addHelpText(
      'after',
      `
Examples:
  neurovisor exec 7ds14n1k -- ls -l
  neurovisor exec 7ds14n1k -c 'import sys; print(sys.argv[1:])' -- a b
  echo 'hello' | neurovisor exec 7ds14n1k -- tr a-z A-Z
  neurovisor exec -it 7ds14n1k -- python3
  neurovisor exec --detach 7ds14n1k -- python3 -m http.server 8000
`,
    )
    .action((id: string, argv: string[], flags: ExecFlags & OutputFlags) =>
      performThere(
        flags,
        async (cli, control) => (await programs()).exec(cli, control, id, argv, flags),
        async (cli) => (await programs()).checkExec(cli, argv, flags),
      ),
    );
}

function addShell(program: Command): void {
  program
    .command('shell')
    .summary('open a shell in a sandbox')
    .description("Opens bash as the guest's user on this terminal. `exit` or Ctrl-] q leaves.")
    .argument('<id>', 'the sandbox')
    .option(...ENV, collect, [])
    .option(...USER)
    .option('--cwd <dir>', "where it starts (default: the user's home)")
    .addHelpText(
      'after',
      `
Examples:
  neurovisor shell 7ds14n1k
  neurovisor shell --user root 7ds14n1k
`,
    )
    .action((id: string, flags: ExecFlags) =>
      performThere({}, async (cli, control) => (await programs()).shell(cli, control, id, flags)),
    );
}

function addCopy(program: Command): void {
  program
    .command('cp')
    .summary('copy files to or from a sandbox')
    .description(
      'Copies files and directories to or from a sandbox, with modes and symbolic links. ' +
        'Into TARGET if that is a directory, else under that name, for which directories are made that are ' +
        'missing; SOURCE/. is what is in a directory. ' +
        'A path in a sandbox is ID:PATH, from the home of its user; - is standard input or output.',
    )
    .argument('<source>')
    .argument('<target>')
    .option('--user <name>', 'with whose rights: user or root (default user)')
    .addOption(output())
    .addHelpText(
      'after',
      `
Examples:
  neurovisor cp data.csv 7ds14n1k:
  neurovisor cp project/. 7ds14n1k:/home/user/project
  neurovisor cp 7ds14n1k:results .
  neurovisor cp 7ds14n1k:log.txt - | tail
`,
    )
    .action((source: string, target: string, flags: CopyFlags & OutputFlags) =>
      performThere(
        flags,
        async (cli, control) => (await copies()).cp(cli, control, [source, target], flags),
        async (cli) => (await copies()).checkCopy(cli, [source, target]),
      ),
    );
}

function addPort(program: Command): void {
  program
    .command('port')
    .summary('forward ports of a sandbox to this machine')
    .description(
      'Forwards ports of a sandbox to 127.0.0.1 of this machine, until Ctrl-C. The sandbox needs no network: ' +
        'connections go over its channel to what listens there on its loopback. ' +
        'PORT:LOCAL names the port here; else it is the same number if that is free, else any.',
    )
    .argument('<id>', 'the sandbox')
    .argument('<ports...>', 'PORT or PORT:LOCAL')
    .addOption(
      new Option(
        '--over <way>',
        'channel (default): to its loopback; nic: to the address of its network card',
      ).choices(['channel', 'nic']),
    )
    .addOption(output())
    .addHelpText(
      'after',
      `
Examples:
  neurovisor exec --detach 7ds14n1k -- python3 -m http.server 3000
  neurovisor port 7ds14n1k 3000
  neurovisor port 7ds14n1k 3000:8080 5432
  neurovisor port 7ds14n1k 3000 --over nic
`,
    )
    .action((id: string, ports: string[], flags: PortFlags & OutputFlags) =>
      performThere(
        flags,
        async (cli, control) => (await forwards()).port(cli, control, id, ports, flags),
        async () => (await forwards()).parsePorts(ports),
      ),
    );
}

function addProcesses(program: Command): void {
  program
    .command('ps')
    .summary('list the programs of a sandbox')
    .description('Lists the programs that were started in a sandbox from outside and still run.')
    .argument('<id>', 'the sandbox')
    .addOption(output())
    .addHelpText('after', '\nExample:\n  neurovisor ps 7ds14n1k\n')
    .action((id: string, flags: OutputFlags) =>
      performThere(flags, async (cli, control) => {
        const { processes } = await import('../commands/host.ts');
        return await processes(cli, control, id);
      }),
    );
}
