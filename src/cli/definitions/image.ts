/** Definitions of `neurovisor image`. */
import type { Command } from 'commander';
import { type OutputFlags, perform } from './perform.ts';
import { output } from './shared-options.ts';

const load = () => import('../commands/image.ts');

const REFERENCE = 'NAME[:TAG], NAME@sha256:DIGEST, docker-archive:FILE, oci:DIRECTORY[:TAG] or docker-daemon:NAME:TAG';

export function addImage(program: Command): void {
  const image = program
    .command('image')
    .summary('manage container images')
    .description(
      'Manage container images. An image is fetched from a registry or an archive and made into a disk for ' +
        'sandboxes; its layers are unpacked in a microVM, never on the host.',
    )
    .addHelpText(
      'after',
      `
Examples:
  neurovisor image pull python:3.13
  neurovisor run --image python:3.13 main.py
  neurovisor image rm python:3.13
`,
    );
  image
    .command('pull')
    .summary('fetch images')
    .description(
      'Fetch images and make their disks. Layers that are already here are neither fetched nor unpacked again. ' +
        'Credentials are those of docker login; mirrors are configured as for skopeo.',
    )
    .argument('<images...>', REFERENCE)
    .addOption(output())
    .action((names: string[], flags: OutputFlags) =>
      perform(flags, async (cli) => (await load()).imagePull(cli, names)),
    );
  image
    .command('ls')
    .summary('list images')
    .description('List the images of this machine, the newest first.')
    .addOption(output())
    .action((flags: OutputFlags) => perform(flags, async (cli) => (await load()).imageList(cli)));
  image
    .command('inspect')
    .summary('show the details of an image')
    .description('Show what an image says about itself: its user, command, environment and layers.')
    .argument('<image>', 'name or digest, or a unique prefix of the digest')
    .addOption(output())
    .action((name: string, flags: OutputFlags) =>
      perform(flags, async (cli) => (await load()).imageInspect(cli, name)),
    );
  image
    .command('rm')
    .summary('remove images')
    .description('Remove images, and the layers that no other image has.')
    .argument('<images...>', 'names or digests, or unique prefixes of digests')
    .addOption(output())
    .action((names: string[], flags: OutputFlags) =>
      perform(flags, async (cli) => (await load()).imageRemove(cli, names)),
    );
  image
    .command('prune')
    .summary('remove unused images')
    .description('Remove images without a name, whose tags moved on, and files of no image.')
    .option('-a, --all', 'remove all images')
    .addOption(output())
    .action((flags: OutputFlags & { readonly all?: boolean }) =>
      perform(flags, async (cli) => (await load()).imagePrune(cli, flags)),
    );
}
