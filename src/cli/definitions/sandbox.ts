/** The words for sandboxes of the daemon: `create`, `update`, `ls`, `rm`, `pause`, `resume`, `snapshot`, `fork`. */
import { type Command, Option } from 'commander';
import type { CreateFlags } from '../commands/create.ts';
import type { ListFlags } from '../commands/sandboxes.ts';
import type { ForkFlags } from '../commands/snapshot.ts';
import type { UpdateFlags } from '../commands/update.ts';
import * as ranges from '../flags/ranges.ts';
import { type OutputFlags, performThere } from './perform.ts';
import {
  addNetworkOptions,
  addSandboxOptions,
  collect,
  DISK_LIMIT,
  memoryMaxOption,
  NETWORK_HELP,
  output,
} from './shared-options.ts';

const sandboxes = () => import('../commands/sandboxes.ts');
const snapshots = () => import('../commands/snapshot.ts');

const SHORT_IDS = 'An id may be shortened, as long as only one begins like that.';

export function addSandbox(program: Command): void {
  addCreate(program);
  addUpdate(program);
  addList(program);
  addRemove(program);
  addPause(program);
  addSnapshot(program);
  addFork(program);
}

function addCreate(program: Command): void {
  const command = program
    .command('create')
    .summary('start a sandbox that stays')
    .description(
      'Starts a sandbox in the daemon and prints its id. It stays until `rm`, or until its time is over. ' +
        'It comes out of the pool if one fits, else it is cloned from a template, else it boots.',
    )
    .option('-l, --label <KEY=VALUE>', 'free text to find it by', collect, [])
    .option(
      '-e, --env <NAME=VALUE>',
      'variable for its programs (NAME alone: as it is here)',
      collect,
      [],
    );
  addSandboxOptions(command)
    .addOption(memoryMaxOption())
    .option('--timeout <time>', 'how long it stays, e.g. 90s or 2h (default: without limit)')
    .addOption(
      new Option('--on-timeout <action>', 'what happens then (default kill)').choices([
        'kill',
        'pause',
      ]),
    )
    .option(
      '--idle-timeout <time>',
      'pause it to disk when nothing happened in it for so long; never: not',
      '1h',
    )
    .option(
      '--on-memory-pressure <action>',
      'when a kill for want of memory is near, with --memory-max at that: warn (default), pause, snapshot, or a ' +
        'URL to post it to; grow: --memory-max, then warn',
    )
    .option('--no-auto-resume', 'when it is paused, refuse operations instead of resuming it')
    .option('--snapshot <name>', 'go on from a snapshot: its name, or its id')
    .option('--boot', 'boot, even where something else would start faster')
    .option('--model <name>', 'model for its scripts: a name of the model server')
    .addOption(output())
    .addHelpText(
      'after',
      `${NETWORK_HELP}
Examples:
  id=$(neurovisor create)
  neurovisor exec $id -c 'print(6 * 7)'
  neurovisor create -l user=42 --memory 1G --timeout 2h --on-timeout pause
  neurovisor create --memory 256M --memory-max 1G --on-memory-pressure pause
  neurovisor create --net egress --allow-out api.github.com:443
  neurovisor create --snapshot ready-to-work
`,
    )
    .action((flags: CreateFlags & OutputFlags) =>
      performThere(flags, async (cli, control) => {
        const { create } = await import('../commands/create.ts');
        return await create(cli, control, flags);
      }),
    );
}

function addUpdate(program: Command): void {
  const command = program
    .command('update')
    .summary('change a sandbox while it runs')
    .description(
      `Changes what is named, at once: its network, its memory, the limits of its disks, how long it stays, its labels. ${SHORT_IDS}`,
    )
    .argument('<id>');
  addNetworkOptions(command)
    .option(...DISK_LIMIT, collect, [])
    .option('--timeout <time>', 'how long it stays from now on, e.g. 90s or 2h; never: no limit')
    .option('--memory <size>', 'more of it, or less: of one that was made with --memory-max')
    .option('--on-memory-pressure <action>', 'warn, grow, pause, snapshot, or a URL; see create')
    .option('-l, --label <KEY=VALUE>', 'labels instead of those that it has', collect, [])
    .addOption(output())
    .addHelpText(
      'after',
      `${NETWORK_HELP}
Examples:
  neurovisor update 7ds14n1k --allow-out api.github.com
  neurovisor update 7ds14n1k --net none --timeout 10m
  neurovisor update 7ds14n1k --net-limit bytes=2G,down=5M
  neurovisor update 7ds14n1k --disk-limit rate=20M
  neurovisor update 7ds14n1k --allow-out 'GET https://api.github.com/repos/' --net-limit api.github.com=50M
  neurovisor update 7ds14n1k --memory 768M
`,
    )
    .action((id: string, flags: UpdateFlags & OutputFlags) =>
      performThere(flags, async (cli, control) => {
        const { update } = await import('../commands/update.ts');
        return await update(cli, control, id, flags);
      }),
    );
}

function addList(program: Command): void {
  program
    .command('ls')
    .summary('list sandboxes')
    .description('Lists the sandboxes of the daemon, newest first.')
    .option('-a, --all', 'those that have ended too, with the reason')
    .option('-l, --label <KEY=VALUE>', 'only those with this label', collect, [])
    .addOption(output())
    .addHelpText(
      'after',
      `
Examples:
  neurovisor ls -a
  neurovisor ls -l user=42 -o json
`,
    )
    .action((flags: ListFlags & OutputFlags) =>
      performThere(flags, async (cli, control) => (await sandboxes()).list(cli, control, flags)),
    );
}

function addRemove(program: Command): void {
  program
    .command('rm')
    .summary('end sandboxes and remove all of them')
    .description(
      `Ends sandboxes, whatever they are doing, and prints the ids of those that are gone. ${SHORT_IDS}`,
    )
    .argument('[ids...]')
    .option('--all', 'every sandbox of the daemon, paused ones too')
    .addOption(output())
    .addHelpText(
      'after',
      `
Examples:
  neurovisor rm 7ds14n1k
  neurovisor rm --all
`,
    )
    .action((ids: string[], flags: { all?: boolean } & OutputFlags) =>
      performThere(
        flags,
        async (cli, control) => (await sandboxes()).remove(cli, control, ids, flags),
        async () => (await sandboxes()).checkRemove(ids, flags),
      ),
    );
}

function addPause(program: Command): void {
  program
    .command('pause')
    .summary('stop sandboxes without losing anything')
    .description(
      'Stops sandboxes. Files, programs and what they have in memory stay as they are until `resume`. ' +
        'To disk (default): memory and processor are given back. To memory: resumes at once. ' +
        `${SHORT_IDS}`,
    )
    .argument('<ids...>')
    .addOption(
      new Option('--to <where>', 'where memory is kept (default disk)').choices(['memory', 'disk']),
    )
    .addOption(output())
    .addHelpText(
      'after',
      `
Examples:
  neurovisor pause 7ds14n1k
  neurovisor pause --to memory 7ds14n1k
`,
    )
    .action((ids: string[], flags: { to?: 'memory' | 'disk' } & OutputFlags) =>
      performThere(flags, async (cli, control) =>
        (await sandboxes()).pause(cli, control, ids, flags),
      ),
    );
  program
    .command('resume')
    .summary('let paused sandboxes go on')
    .description(
      'Lets paused sandboxes go on where they stopped. Most need no `resume`: any operation on one ' +
        `resumes it, unless it was made with --no-auto-resume. ${SHORT_IDS}`,
    )
    .argument('<ids...>')
    .addOption(output())
    .addHelpText('after', '\nExample:\n  neurovisor resume 7ds14n1k\n')
    .action((ids: string[], flags: OutputFlags) =>
      performThere(flags, async (cli, control) => (await sandboxes()).resume(cli, control, ids)),
    );
}

function addSnapshot(program: Command): void {
  const snapshot = program
    .command('snapshot')
    .summary('keep the state of a sandbox')
    .description(
      'A snapshot is a sandbox as it was at one moment: files, programs, memory. Any number of sandboxes ' +
        'can go on from it with `create --snapshot`, each with an identity of its own.',
    )
    .addHelpText(
      'after',
      `
Examples:
  neurovisor snapshot create 7ds14n1k --name ready-to-work
  neurovisor create --snapshot ready-to-work
  neurovisor snapshot rm ready-to-work
`,
    );
  snapshot
    .command('create')
    .summary('keep a running or paused sandbox; it goes on')
    .description(
      'Keeps the sandbox as it is now, prints the id of the snapshot; the sandbox goes on. Connections of ' +
        'its programs to the model end.',
    )
    .argument('<id>', 'the sandbox')
    .option('--name <name>', 'a name to call the snapshot by')
    .addOption(output())
    .action((id: string, flags: { name?: string } & OutputFlags) =>
      performThere(
        flags,
        async (cli, control) => (await snapshots()).snapshotCreate(cli, control, id, flags),
        async () => (await snapshots()).checkName(flags),
      ),
    );
  snapshot
    .command('ls')
    .summary('list snapshots')
    .description('Lists snapshots. One made with another kernel, image or VMM is not usable now.')
    .addOption(output())
    .action((flags: OutputFlags) =>
      performThere(flags, async (cli, control) => (await snapshots()).snapshotList(cli, control)),
    );
  snapshot
    .command('rm')
    .summary('remove snapshots')
    .description('Removes snapshots. Sandboxes that went on from one are not touched.')
    .argument('<names...>', 'names, ids or their beginnings')
    .addOption(output())
    .action((names: string[], flags: OutputFlags) =>
      performThere(flags, async (cli, control) =>
        (await snapshots()).snapshotRemove(cli, control, names),
      ),
    );
}

function addFork(program: Command): void {
  program
    .command('fork')
    .summary('make copies of a running sandbox')
    .description(
      'Makes copies of a sandbox, with its files, programs and memory, each with an identity of its own. ' +
        'Prints the id of each; one that failed is told on stderr, and the exit status is 1 then.',
    )
    .argument('<id>')
    .option('--count <n>', 'how many (default 1)', ranges.forks)
    .option('--timeout <time>', 'how long each stays')
    .option('-l, --label <KEY=VALUE>', 'labels instead of those of the original', collect, [])
    .addOption(output())
    .addHelpText(
      'after',
      `
Examples:
  neurovisor fork 7ds14n1k
  neurovisor fork 7ds14n1k --count 4 --timeout 10m -l attempt=yes
`,
    )
    .action((id: string, flags: ForkFlags & OutputFlags) =>
      performThere(flags, async (cli, control) =>
        (await snapshots()).fork(cli, control, id, flags),
      ),
    );
}
