/** Definitions of the commands for sandboxes of the daemon: `ls` to `fork`. */
import { type Command, Option } from 'commander';
import type { PauseTarget } from '../../sandbox/contract/control.ts';
import type { ListFlags, RemoveFlags } from '../commands/sandboxes.ts';
import type { ForkFlags } from '../commands/snapshot.ts';
import * as ranges from '../flags/ranges.ts';
import { type OutputFlags, performThere } from './perform.ts';
import { collect, listCommand, output, SANDBOX } from './shared-options.ts';

const SANDBOXES = 'sandbox names, IDs, or unique prefixes of IDs';

const sandboxes = () => import('../commands/sandboxes.ts');
const snapshots = () => import('../commands/snapshot.ts');

export function addSandbox(program: Command): void {
  addList(program);
  addRemove(program);
  addPause(program);
  addSnapshot(program);
  addFork(program);
}

function addList(program: Command): void {
  program
    .command('ls')
    .summary('list sandboxes')
    .description('List the sandboxes of the daemon, newest first.')
    .option('-a, --all', 'include ended sandboxes, with their cause')
    .option('-q, --quiet', 'print only IDs')
    .option('-l, --label <KEY=VALUE>', 'filter by label (repeatable)', collect, [])
    .option('--status <status>', 'filter by status, for example paused (repeatable)', collect)
    .addOption(output())
    .addHelpText(
      'after',
      `
Examples:
  neurovisor ls -a
  neurovisor ls -l user=42 -o json
  neurovisor resume $(neurovisor ls -q --status paused)
`,
    )
    .action((flags: ListFlags & OutputFlags) =>
      performThere(
        flags,
        async (cli, control) => (await sandboxes()).list(cli, control, flags),
        async () => (await sandboxes()).sandboxFilter(flags),
      ),
    );
}

function addRemove(program: Command): void {
  program
    .command('rm')
    .summary('remove sandboxes')
    .description('Stop sandboxes, delete their data, and print their IDs.')
    .argument('[ids...]', SANDBOXES)
    .option('--all', 'remove all sandboxes of the daemon, including paused ones')
    .option('-l, --label <KEY=VALUE>', 'remove the sandboxes with this label (repeatable)', collect, [])
    .addOption(output())
    .addHelpText(
      'after',
      `
Examples:
  neurovisor rm 7ds14n1k
  neurovisor rm -l user=42
  neurovisor rm --all
`,
    )
    .action((ids: string[], flags: RemoveFlags & OutputFlags) =>
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
    .option('--name <name>', 'name to use instead of the ID, for one copy')
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
