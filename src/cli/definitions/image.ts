/** Definitions of `neurovisor image`. */
import { type Command, Option } from 'commander';
import { STAGE_VM_DEFAULTS } from '../../artifacts/dockerfile/limits.ts';
import type { BuildFlags } from '../commands/image-build.ts';
import { sizeFields } from '../flags/sandbox-fields.ts';
import { type OutputFlags, perform } from './perform.ts';
import { addFields, collect, listCommand, output } from './shared-options.ts';

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
  neurovisor image build -t web .
  neurovisor image pull python:3.13
  neurovisor run --image python:3.13 main.py
  neurovisor image rm python:3.13
`,
    );
  addBuild(image);
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
  listCommand(image)
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

function addBuild(image: Command): void {
  const build = image
    .command('build')
    .summary('build an image from a Dockerfile')
    .description(
      'Build an image from a Dockerfile and show its details. Each step runs in a microVM, without a network unless asked ' +
        'for; packages come through the package gateway. Steps that have not changed come from the cache.',
    )
    .argument('[context]', 'directory that COPY takes files from; its Dockerfile is built (default: .)')
    .option('-t, --name <name>', 'name of the image, for --image')
    .option('-f, --file <path>', 'Dockerfile (default: Dockerfile of the context); - for stdin')
    .option('--build-arg <name=value>', 'value for an ARG of the Dockerfile (repeatable)', collect, [])
    .option('--target <stage>', 'stage of the Dockerfile to build (default: the last)')
    .option(
      '--build-secret <id=name,src=file>',
      'file, or env=VARIABLE, for RUN --mount=type=secret (repeatable)',
      collect,
      [],
    )
    .option('--no-cache', 'run every step again')
    .addOption(
      new Option('--progress <kind>', 'what to show of the steps (default: plain)').choices(['plain', 'quiet']),
    )
    .addOption(
      new Option('--net <mode>', 'network of the steps: none, egress or open (default: none)').choices([
        'none',
        'egress',
        'open',
      ]),
    )
    .option('--allow-out <rule>', 'allow outbound connections of steps (repeatable)', collect, [])
    .option('--deny-out <rule>', 'deny outbound connections of steps (repeatable)', collect, []);
  addFields(build, sizeFields(STAGE_VM_DEFAULTS))
    .addOption(output())
    .addHelpText(
      'after',
      `
Examples:
  neurovisor image build -t web .
  neurovisor run --image web
  neurovisor template create -t web --image web --start 'python3 -m http.server 8000'
`,
    )
    .action((context: string | undefined, flags: BuildFlags & OutputFlags) =>
      perform(flags, async (cli) =>
        (await import('../commands/image-build.ts')).imageBuild(cli, context ?? '.', flags),
      ),
    );
}
