/** Definitions of the commands for sandboxes of the daemon: `create` to `fork`. */
import { type Command, Option } from 'commander';
import type { PauseTarget } from '../../sandbox/contract/control.ts';
import type { CreateFlags } from '../commands/create.ts';
import type { ListFlags } from '../commands/sandboxes.ts';
import type { ForkFlags } from '../commands/snapshot.ts';
import type { UpdateFlags } from '../commands/update.ts';
import * as ranges from '../flags/ranges.ts';
import { groupOptions, moreOptionsText, whenAll } from './help.ts';
import { type OutputFlags, performThere } from './perform.ts';
import {
  addNetworkOptions,
  addPackageOptions,
  addSandboxOptions,
  collect,
  DISK_LIMIT,
  listCommand,
  MODEL_BUDGET,
  memoryMaxOption,
  NETWORK_HELP,
  output,
  RATE,
  SANDBOX,
  TEMPLATE,
} from './shared-options.ts';

const SANDBOXES = 'sandbox IDs, or unique prefixes of them';

const sandboxes = () => import('../commands/sandboxes.ts');
const snapshots = () => import('../commands/snapshot.ts');

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
    .summary('create a sandbox')
    .description(
      'Create a sandbox in the daemon and print its ID. It runs until `neurovisor rm` or its timeout. ' +
        'The sandbox comes from the warm pool, or else is cloned from a template, or else boots.',
    )
    .option('-l, --label <KEY=VALUE>', 'label, for ls and inspect (repeatable)', collect, [])
    .option(
      '-e, --env <NAME=VALUE>',
      'environment variable; NAME alone passes on its value here (repeatable)',
      collect,
      [],
    );
  addSandboxOptions(command)
    .addOption(memoryMaxOption())
    .option('--timeout <time>', 'lifetime, for example 90s or 2h (default: unlimited)')
    .addOption(
      new Option(
        '--on-timeout <action>',
        'action at the timeout: kill, pause (to disk) or pause-disk-only (without the memory) (default: kill)',
      ).choices(['kill', 'pause', 'pause-disk-only']),
    )
    .option('--idle-timeout <time>', 'pause to disk after this time without activity, or never', '1h')
    .option(
      '--on-memory-pressure <action>',
      'action when close to OOM (at --memory-max, if set): warn, pause, snapshot, a URL to POST the event to ' +
        '(a private address only if NEUROVISOR_WEBHOOK_HOSTS of the daemon names it), or grow (like warn, but ' +
        'requires --memory-max) (default: warn)',
    )
    .option('--no-auto-resume', 'refuse operations while the sandbox is paused, instead of resuming it')
    .option('--snapshot <name>', 'restore a snapshot, by name or ID')
    .option(...TEMPLATE)
    .option('--boot', 'boot instead of using the pool or a template')
    .option('--model <name>', 'default model of the guest: a name on the model server')
    .addOption(output())
    .addHelpText('after', () => moreOptionsText(command))
    .addHelpText('after', () => whenAll(NETWORK_HELP))
    .addHelpText(
      'after',
      `
Examples:
  id=$(neurovisor create)
  neurovisor exec $id -c 'print(6 * 7)'
  neurovisor create -l user=42 --memory 1G --timeout 2h --on-timeout pause
  neurovisor create --memory 256M --memory-max 1G --on-memory-pressure pause
  neurovisor create --net egress --allow-out api.github.com:443
  neurovisor create --snapshot ready-to-work
  neurovisor create --template data
  neurovisor create --build .
`,
    )
    .action((flags: CreateFlags & OutputFlags) =>
      performThere(flags, async (cli, control) => {
        const { create } = await import('../commands/create.ts');
        return await create(cli, control, flags);
      }),
    );
  groupOptions(command, [
    '--label',
    '--env',
    '--with',
    '--image',
    '--template',
    '--snapshot',
    '--allow-out',
    '--model',
    '--memory',
    '--timeout',
    '--idle-timeout',
    '--output',
  ]);
}

function addUpdate(program: Command): void {
  const command = program
    .command('update')
    .summary('change a running sandbox')
    .description(
      'Change the network, packages, memory, limits of disks and channel, budget for models, lifetime or labels of a running sandbox. ' +
        'Changes take effect immediately. What is not named stays as it is. A budget replaces the one before, also of forks; what was used of it stays used.',
    )
    .argument(...SANDBOX);
  addPackageOptions(addNetworkOptions(command), 'separated by commas, or none; replaces the policy, with its rules')
    .option(...DISK_LIMIT, collect, [])
    .option(...RATE)
    .option(...MODEL_BUDGET, collect, [])
    .option('--timeout <time>', 'lifetime from now on, for example 90s or 2h, or never')
    .option('--memory <size>', 'new memory size; needs a sandbox created with --memory-max')
    .option('--on-memory-pressure <action>', 'action when close to OOM; see neurovisor create --help')
    .option('-l, --label <KEY=VALUE>', 'replace all labels (repeatable)', collect, [])
    .addOption(output())
    .addHelpText(
      'after',
      `${NETWORK_HELP}
Examples:
  neurovisor update 7ds14n1k --allow-out api.github.com
  neurovisor update 7ds14n1k --net none --timeout 10m
  neurovisor update 7ds14n1k --net-limit bytes=2G,down=5M
  neurovisor update 7ds14n1k --disk-limit rate=20M --rate 5M
  neurovisor update 7ds14n1k --allow-out 'GET https://api.github.com/repos/' --net-limit api.github.com=50M
  neurovisor update 7ds14n1k --memory 768M
  neurovisor update 7ds14n1k --model-budget output=400k,cost=10,per=1d
  neurovisor update 7ds14n1k --packages pip --packages-deny 'torch*'
  neurovisor update 7ds14n1k --packages none
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
    .description('List the sandboxes of the daemon, newest first.')
    .option('-a, --all', 'include ended sandboxes, with their cause')
    .option('-l, --label <KEY=VALUE>', 'filter by label (repeatable)', collect, [])
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
    .summary('remove sandboxes')
    .description('Stop sandboxes, delete their data, and print their IDs.')
    .argument('[ids...]', SANDBOXES)
    .option('--all', 'remove all sandboxes of the daemon, including paused ones')
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
    .summary('pause sandboxes')
    .description(
      'Pause sandboxes, with their files, programs and memory. Paused to disk, a sandbox uses no memory and ' +
        'no processor. Paused to memory, it keeps its memory and resumes immediately. Paused to disk only, it keeps ' +
        'its files; `neurovisor resume` boots it again.',
    )
    .argument('<ids...>', SANDBOXES)
    .addOption(
      new Option(
        '--to <where>',
        'where to keep the sandbox: memory, disk, or disk-only (without its memory: programs end) (default: disk)',
      ).choices(['memory', 'disk', 'disk-only']),
    )
    .addOption(output())
    .addHelpText(
      'after',
      `
Examples:
  neurovisor pause 7ds14n1k
  neurovisor pause --to memory 7ds14n1k
  neurovisor pause --to disk-only 7ds14n1k
`,
    )
    .action((ids: string[], flags: { to?: PauseTarget } & OutputFlags) =>
      performThere(flags, async (cli, control) => (await sandboxes()).pause(cli, control, ids, flags)),
    );
  program
    .command('resume')
    .summary('resume paused sandboxes')
    .description(
      'Resume paused sandboxes. Any operation on a paused sandbox also resumes it, unless the sandbox was ' +
        'created with --no-auto-resume or paused to disk only.',
    )
    .argument('<ids...>', SANDBOXES)
    .option('--reboot', 'boot from the disk and drop the saved memory; programs end')
    .addOption(output())
    .addHelpText('after', '\nExample:\n  neurovisor resume 7ds14n1k\n')
    .action((ids: string[], flags: { reboot?: boolean } & OutputFlags) =>
      performThere(flags, async (cli, control) => (await sandboxes()).resume(cli, control, ids, flags)),
    );
}

function addSnapshot(program: Command): void {
  const snapshot = program
    .command('snapshot')
    .summary('manage snapshots')
    .description(
      'Manage snapshots. A snapshot holds the files, programs and memory of a sandbox at one moment. ' +
        '`neurovisor create --snapshot` restores it, any number of times, each time with a new identity.',
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
    .summary('create a snapshot of a sandbox')
    .description(
      'Create a snapshot of a running or paused sandbox, and print the ID of the snapshot. The sandbox stays ' +
        'as it is, but open connections to the model are closed.',
    )
    .argument(...SANDBOX)
    .option('--name <name>', 'name of the snapshot')
    .option('--disk-only', 'save only the disk: sandboxes boot from it, without the programs')
    .addOption(output())
    .action((id: string, flags: { name?: string; diskOnly?: boolean } & OutputFlags) =>
      performThere(
        flags,
        async (cli, control) => (await snapshots()).snapshotCreate(cli, control, id, flags),
        async () => (await snapshots()).checkSnapshotName(flags),
      ),
    );
  listCommand(snapshot)
    .summary('list snapshots')
    .description('List snapshots. A snapshot made with another kernel, image or VMM cannot be restored.')
    .addOption(output())
    .action((flags: OutputFlags) =>
      performThere(flags, async (cli, control) => (await snapshots()).snapshotList(cli, control)),
    );
  snapshot
    .command('rm')
    .summary('remove snapshots')
    .description('Remove snapshots. Sandboxes restored from them are not affected.')
    .argument('<names...>', 'snapshot names, IDs, or unique prefixes of IDs')
    .addOption(output())
    .action((names: string[], flags: OutputFlags) =>
      performThere(flags, async (cli, control) => (await snapshots()).snapshotRemove(cli, control, names)),
    );
}

function addFork(program: Command): void {
  program
    .command('fork')
    .summary('create copies of a running sandbox')
    .description(
      'Create copies of a running sandbox, with its files, programs and memory, each with a new identity. ' +
        'Print the ID of each copy. Exit status 1: at least one copy failed.',
    )
    .argument(...SANDBOX)
    .option('--count <n>', 'number of copies (default: 1)', ranges.forks)
    .option('--timeout <time>', 'lifetime of each copy, for example 10m (default: that of the original)')
    .option('-l, --label <KEY=VALUE>', 'replace the labels of the original (repeatable)', collect, [])
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
      performThere(flags, async (cli, control) => (await snapshots()).fork(cli, control, id, flags)),
    );
}
