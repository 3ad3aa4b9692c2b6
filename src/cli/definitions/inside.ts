/** Definitions of the commands that act inside a sandbox: `exec`, `attach`, `shell`, `wait`, `cp`, `port`, `ps`. */
import { type Command, Option } from 'commander';
import type { CopyFlags } from '../commands/cp.ts';
import type { ExecFlags } from '../commands/exec.ts';
import type { PortFlags } from '../commands/port.ts';
import { type OutputFlags, performThere } from './perform.ts';
import { collect, output, SANDBOX, WORKDIR } from './shared-options.ts';

const programs = () => import('../commands/exec.ts');
const copies = () => import('../commands/cp.ts');
const forwards = () => import('../commands/port.ts');

export function addInside(program: Command): void {
  addExec(program);
  addAttach(program);
  addWait(program);
  addShell(program);
  addCopy(program);
  addPort(program);
  addProcesses(program);
}

const ENV = [
  '-e, --env <NAME=VALUE>',
  'environment variable; NAME alone passes on its value here (repeatable)',
] as const;
const USER = ['--user <name>', 'guest user: user or root (default: user)'] as const;
const PATHS = 'PATH here, ID:PATH in a sandbox (from the home of the guest user), or - for standard input or output';

function addExec(program: Command): void {
  program
    .command('exec')
    .summary('run a program in a sandbox')
    .description(
      'Run a program, or Python code, in a sandbox. Its output and exit status become those of this command. ' +
        'Standard input is passed on, unless it is a terminal. Ctrl-C interrupts the program; a second Ctrl-C ' +
        'kills it.\n\n' +
        'Exit status: 124 timeout, 125 NeuroVisor failed, 126 program not executable, 127 program not found, ' +
        '128+n ended by signal n, 2 usage error.',
    )
    .argument(...SANDBOX)
    .argument('[program...]', 'program and its arguments')
    .option('-c, --code <code>', 'run Python code')
    .option('-i, --interactive', 'pass on standard input even if it is a terminal')
    .option('-t, --tty', 'allocate a terminal (Ctrl-] q to leave)')
    .option(...ENV, collect, [])
    .option(...USER)
    .option(...WORKDIR)
    .option('--timeout <time>', 'time limit, for example 90s or 5m (default: none)')
    .option('--detach', 'run in the background and print the pid')
    .addOption(output())
    .addHelpText(
      'after',
      `
Examples:
  neurovisor exec 7ds14n1k ls -l
  neurovisor exec 7ds14n1k -c 'import sys; print(sys.argv[1:])' a b
  echo 'hello' | neurovisor exec 7ds14n1k tr a-z A-Z
  neurovisor exec -it 7ds14n1k python3
  neurovisor exec --detach 7ds14n1k python3 -m http.server 8000
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

function addAttach(program: Command): void {
  program
    .command('attach')
    .summary('follow a detached program')
    .description(
      'Follow a program of `neurovisor exec --detach`: print what it writes from now on, and exit with its exit status. ' +
        'Ctrl-C leaves it running.',
    )
    .argument(...SANDBOX)
    .argument('<pid>', 'pid of the program, as `neurovisor ps` lists it')
    .addOption(output())
    .addHelpText('after', '\nExample:\n  neurovisor attach 7ds14n1k 1234\n')
    .action((id: string, pid: string, flags: OutputFlags) =>
      performThere(flags, async (cli, control) => (await programs()).attach(cli, control, id, pid)),
    );
}

function addWait(program: Command): void {
  program
    .command('wait')
    .summary('wait for a program')
    .description(
      'Wait until a program of a sandbox ends, print its exit status, and exit with it. Ctrl-C leaves it running.',
    )
    .argument(...SANDBOX)
    .argument('<pid>', 'pid of the program, as `neurovisor ps -a` lists it')
    .addOption(output())
    .addHelpText('after', '\nExample:\n  neurovisor wait 7ds14n1k 1234\n')
    .action((id: string, pid: string, flags: OutputFlags) =>
      performThere(flags, async (cli, control) => {
        const { wait } = await import('../commands/program-logs.ts');
        return await wait(cli, control, id, pid);
      }),
    );
}

function addShell(program: Command): void {
  program
    .command('shell')
    .summary('open a shell in a sandbox')
    .description('Open an interactive bash in a sandbox. Leave it with `exit` or Ctrl-] q.')
    .argument(...SANDBOX)
    .option(...ENV, collect, [])
    .option(...USER)
    .option(...WORKDIR)
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
      'Copy files and directories to or from a sandbox, with their modes and symbolic links. If TARGET is a ' +
        'directory, copy into it; otherwise copy to that name and create missing parent directories. ' +
        'SOURCE/. copies the contents of a directory. Links are copied as links and never followed; TARGET/ ' +
        'copies into the directory that a link leads to.',
    )
    .argument('<source>', PATHS)
    .argument('<target>', PATHS)
    .option(...USER)
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
      'Forward ports of a sandbox to 127.0.0.1 on this machine, until Ctrl-C. The sandbox needs no network: ' +
        'connections go over its channel to its loopback. Without LOCAL, the local port is the same number if ' +
        'it is free, otherwise any free port.',
    )
    .argument(...SANDBOX)
    .argument('<ports...>', 'PORT or PORT:LOCAL')
    .addOption(
      new Option(
        '--over <way>',
        'path of the connections: channel (to the loopback of the guest) or nic (to its network card) (default: channel)',
      ).choices(['channel', 'nic']),
    )
    .addOption(output())
    .addHelpText(
      'after',
      `
Examples:
  neurovisor exec --detach 7ds14n1k python3 -m http.server 3000
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
    .description('List the running programs that were started in a sandbox from outside.')
    .argument(...SANDBOX)
    .option('-a, --all', 'also list ended programs whose output is kept')
    .addOption(output())
    .addHelpText('after', '\nExample:\n  neurovisor ps 7ds14n1k\n')
    .action((id: string, flags: { readonly all?: boolean } & OutputFlags) =>
      performThere(flags, async (cli, control) => {
        const { processes } = await import('../commands/host.ts');
        return await processes(cli, control, id, flags.all);
      }),
    );
}
