/** Definitions of `neurovisor template`. */
import { type Command, Option } from 'commander';
import type { DockerfileFlags } from '../commands/dockerfile.ts';
import { type OutputFlags, perform } from './perform.ts';
import {
  addRequirementOptions,
  addSizeOptions,
  BUILD_ARG,
  cardOption,
  collect,
  imageOption,
  memoryMaxOption,
  output,
  PACKAGES_MIN_AGE,
  TARGET,
} from './shared-options.ts';

const load = () => import('../commands/template.ts');

export function addTemplate(program: Command): void {
  const template = program
    .command('template')
    .summary('manage templates')
    .description(
      'Manage templates. A template is a booted guest with Python modules imported, stored without an ' +
        'identity. Sandboxes start as clones of a template of their size and modules, or of the one that ' +
        '--template names. The template `agent` is that of a sandbox without options.\n\n' +
        'A template with a name stays until it is removed; of the others, the last 8 are kept.',
    )
    .addHelpText(
      'after',
      `
Examples:
  neurovisor template build -t data --memory 1G --with pandas,matplotlib
  neurovisor run --template data plot.py
  neurovisor template build -t web --start 'python3 -m http.server 8000' --ready "bash -c ': </dev/tcp/localhost/8000'"
  neurovisor create --template data
  neurovisor pool set 1 4 --template data
  neurovisor template rm data
`,
    );
  const build = template
    .command('build')
    .summary('build a template')
    .description(
      'Build a template, if it does not exist, and show its details. With --tag, give it a name; a name that another ' +
        'template has moves to this one once it is built. With a directory or --file, build an environment from a ' +
        'Dockerfile: each step runs in a microVM, without a network unless asked for; packages come through the ' +
        'package gateway.',
    )
    .argument('[context]', 'directory that COPY takes files from; its Dockerfile is built')
    .option('-t, --tag <name>', 'name of the template, for --template')
    .option(
      '--start <command>',
      'start this program before the template is saved, with sh -c; it runs in every sandbox of the template',
    )
    .option(
      '--ready <command>',
      'save the template once this command exits with 0 (default: the HEALTHCHECK of the image or Dockerfile)',
    )
    .option('--ready-timeout <time>', 'fail if the program is not ready by then, for example 90s or 5m (default: 2m)');
  addDockerfileOptions(build);
  addRequirementOptions(addSizeOptions(build).addOption(imageOption()))
    .option(...PACKAGES_MIN_AGE)
    .addOption(memoryMaxOption())
    .addOption(cardOption())
    .option('--warm <module>', 'Python module to import instead of the default list (repeatable)', collect, [])
    .addOption(output())
    .action((context: string | undefined, flags: DockerfileFlags & OutputFlags) =>
      perform(flags, async (cli) => {
        const { dockerfileBuild, requireNoDockerfileFlags } = await import('../commands/dockerfile.ts');
        if (context !== undefined || flags.file !== undefined) {
          return dockerfileBuild(cli, context ?? '.', flags);
        }
        requireNoDockerfileFlags(flags);
        return (await load()).templateBuild(cli, flags);
      }),
    );
  template
    .command('ls')
    .summary('list templates')
    .description('List the templates of this machine.')
    .addOption(output())
    .action((flags: OutputFlags) => perform(flags, async (cli) => (await load()).templateList(cli)));
  template
    .command('inspect')
    .summary('show the details of a template')
    .description('Show what a template was made from, and what it contains.')
    .argument('<template>', 'template name, key, or a unique prefix of its key')
    .addOption(output())
    .action((key: string, flags: OutputFlags) =>
      perform(flags, async (cli) => (await load()).templateInspect(cli, key)),
    );
  addTransfer(template);
  template
    .command('rm')
    .summary('remove templates')
    .description(
      'Remove templates. A name goes with the files of its template, unless they have another name; a key stands for the ' +
        'files alone, and a named template is built again when it is used. Sandboxes that started from them are not affected.',
    )
    .argument('<templates...>', 'template names, keys, or unique prefixes of keys')
    .addOption(output())
    .action((keys: string[], flags: OutputFlags) =>
      perform(flags, async (cli) => (await load()).templateRemove(cli, keys)),
    );
}

function addDockerfileOptions(build: Command): void {
  build
    .option('-f, --file <path>', 'Dockerfile (default: Dockerfile of the context); - for stdin')
    .option(...BUILD_ARG, collect, [])
    .option(...TARGET)
    .option(
      '--secret <id=name,src=file>',
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
}

function addTransfer(template: Command): void {
  const loadTransfer = () => import('../commands/template-transfer.ts');
  const as = ['-t, --tag <name>', 'name of the template here (default: that of the export)'] as const;
  template
    .command('export')
    .summary('write a template into a directory')
    .description(
      'Write what a named template is made of, with the disk of its image, into a new directory, as an OCI layout. Memory is ' +
        'not exported, nor are installed packages: the importing host builds its own template when it is first used.',
    )
    .argument('<name>', 'name of the template')
    .argument('<dir>', 'a new or empty directory')
    .addOption(output())
    .action((name: string, dir: string, flags: OutputFlags) =>
      perform(flags, async (cli) => (await loadTransfer()).templateExport(cli, name, dir)),
    );
  template
    .command('import')
    .summary('read a template from a directory')
    .description(
      'Give a name to a template that `neurovisor template export` wrote. Its first use builds it. Its start command runs ' +
        'in its sandboxes, never on the host.',
    )
    .argument('<dir>', 'directory of the export')
    .option(...as)
    .addOption(output())
    .action((dir: string, flags: OutputFlags & { readonly tag?: string }) =>
      perform(flags, async (cli) => (await loadTransfer()).templateImport(cli, dir, flags.tag)),
    );
  template
    .command('push')
    .summary('push a template to a registry')
    .description(
      "Push what `export` would write to a registry, with skopeo and the credentials of Docker's or skopeo's login.",
    )
    .argument('<name>', 'name of the template')
    .argument('<reference>', 'REGISTRY/NAME[:TAG]')
    .addOption(output())
    .action((name: string, reference: string, flags: OutputFlags) =>
      perform(flags, async (cli) => (await loadTransfer()).templatePush(cli, name, reference)),
    );
  template
    .command('pull')
    .summary('pull a template from a registry')
    .description('Fetch a template that `neurovisor template push` pushed, and give it a name, as `import` does.')
    .argument('<reference>', 'REGISTRY/NAME[:TAG] or REGISTRY/NAME@sha256:DIGEST')
    .option(...as)
    .addOption(output())
    .action((reference: string, flags: OutputFlags & { readonly tag?: string }) =>
      perform(flags, async (cli) => (await loadTransfer()).templatePull(cli, reference, flags.tag)),
    );
}
