/** Definitions of `neurovisor volume`. */
import type { Command } from 'commander';
import type { CopyFlags } from '../commands/cp.ts';
import type { VolumeFlags } from '../commands/volume.ts';
import * as ranges from '../flags/ranges.ts';
import { type OutputFlags, performThere } from './perform.ts';
import { listCommand, output } from './shared-options.ts';

const VOLUME_PATHS = 'a path, VOLUME:/PATH in a volume, or -';
const copies = () => import('../commands/cp.ts');
const volumes = () => import('../commands/volume.ts');

export function addVolume(program: Command): void {
  const volume = program
    .command('volume')
    .summary('manage volumes')
    .description(
      'Manage volumes: disks that outlive sandboxes. One sandbox may write a volume, or any number may read it. A paused ' +
        'sandbox keeps its volumes. (Preview.)',
    )
    .addHelpText(
      'after',
      `
Examples:
  neurovisor volume create data --size 10G
  neurovisor run --volume data:/data main.py
  neurovisor create --volume data:/data:ro
  neurovisor volume cp project/. data:/project
`,
    );
  volume
    .command('create')
    .summary('create an empty volume')
    .description('Create an empty volume, and print its name.')
    .argument('<name>', 'name of the volume')
    .option('--size <size>', 'what fits into it, for example 512M or 10G (default: 2G)', ranges.volume)
    .addOption(output())
    .action((name: string, flags: VolumeFlags & OutputFlags) =>
      performThere(
        flags,
        async (cli, control) => (await volumes()).volumeCreate(cli, control, name, flags),
        async () => (await volumes()).checkVolume(name),
      ),
    );
  listCommand(volume)
    .summary('list volumes')
    .description('List volumes, with the sandboxes that have them.')
    .addOption(output())
    .action((flags: OutputFlags) =>
      performThere(flags, async (cli, control) => (await volumes()).volumeList(cli, control)),
    );
  volume
    .command('inspect')
    .summary('print all details of volumes')
    .description('Print all details of volumes, as JSON.')
    .argument('<names...>', 'names of volumes')
    .action((names: string[]) =>
      performThere({}, async (cli, control) => (await volumes()).volumeInspect(cli, control, names)),
    );
  volume
    .command('cp')
    .summary('copy files to or from a volume')
    .description(
      'Copy files and directories to or from a volume, as `neurovisor cp` does: by a running sandbox that has the ' +
        'volume, otherwise by one that is made for it and ends with the copy.',
    )
    .argument('<source>', VOLUME_PATHS)
    .argument('<target>', VOLUME_PATHS)
    .option('--user <name>', 'guest user that writes: user or root (default: user)')
    .addOption(output())
    .addHelpText(
      'after',
      '\nExamples:\n  neurovisor volume cp data.csv data:/\n  neurovisor volume cp data:/results .\n',
    )
    .action((source: string, target: string, flags: CopyFlags & OutputFlags) =>
      performThere(
        flags,
        async (cli, control) => (await copies()).volumeCopy(cli, control, [source, target], flags),
        async (cli) => (await copies()).checkVolumeCopy(cli, [source, target]),
      ),
    );
  volume
    .command('rm')
    .summary('remove volumes')
    .description('Remove volumes with their files. A volume that a sandbox has is kept.')
    .argument('<names...>', 'names of volumes')
    .addOption(output())
    .action((names: string[], flags: OutputFlags) =>
      performThere(flags, async (cli, control) => (await volumes()).volumeRemove(cli, control, names)),
    );
}
