/** Definitions of `neurovisor template`. */
import type { Command } from 'commander';
import type { TemplateFlags } from '../commands/template.ts';
import { PACKAGES_MIN_AGE } from '../flags/package-fields.ts';
import { IMAGE, REQUIREMENTS, SIZE } from '../flags/sandbox-fields.ts';
import { type OutputFlags, perform, performHere } from './perform.ts';
import { addFields, cardOption, collect, listCommand, output } from './shared-options.ts';

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
  neurovisor template create -t data --memory 1G --with pandas,matplotlib
  neurovisor run --template data plot.py
  neurovisor template create -t web --start 'python3 -m http.server 8000' --ready "bash -c ': </dev/tcp/localhost/8000'"
  neurovisor create --template data
  neurovisor pool set 1 4 --template data
  neurovisor template rm data
`,
    );
  const create = template
    .command('create')
    .summary('build a template')
    .description(
      'Build a template, if it does not exist, and show its details. With --name, give it a name; a name that another ' +
        'template has moves to this one once it is built. --image takes a container image, for example one of ' +
        '`neurovisor image build`.',
    )
    .option('-t, --name <name>', 'name of the template, for --template')
    .option(
      '--start <command>',
      'start this program before the template is saved, with sh -c; it runs in every sandbox of the template',
    )
    .option(
      '--ready <command>',
      'save the template once this command exits with 0 (default: the HEALTHCHECK of the image)',
    )
    .option('--ready-timeout <time>', 'fail if the program is not ready by then, for example 90s or 5m (default: 2m)');
  addFields(create, [...SIZE, { options: [IMAGE] }, REQUIREMENTS, { options: [PACKAGES_MIN_AGE] }])
    .addOption(cardOption())
    .option('--warm <module>', 'Python module to import instead of the default list (repeatable)', collect, [])
    .addOption(output())
    .action((flags: TemplateFlags & OutputFlags) =>
      perform(flags, async (cli) => (await load()).templateCreate(cli, flags)),
    );
  listCommand(template)
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

function addTransfer(template: Command): void {
  const loadTransfer = () => import('../commands/template-transfer.ts');
  const as = ['-t, --name <name>', 'name of the template here (default: that of the export)'] as const;
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
      performHere(flags, async (cli) => (await loadTransfer()).templateExport(cli, name, dir)),
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
    .action((dir: string, flags: OutputFlags & { readonly name?: string }) =>
      perform(flags, async (cli) => (await loadTransfer()).templateImport(cli, dir, flags.name)),
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
      performHere(flags, async (cli) => (await loadTransfer()).templatePush(cli, name, reference)),
    );
  template
    .command('pull')
    .summary('pull a template from a registry')
    .description('Fetch a template that `neurovisor template push` pushed, and give it a name, as `import` does.')
    .argument('<reference>', 'REGISTRY/NAME[:TAG] or REGISTRY/NAME@sha256:DIGEST')
    .option(...as)
    .addOption(output())
    .action((reference: string, flags: OutputFlags & { readonly name?: string }) =>
      perform(flags, async (cli) => (await loadTransfer()).templatePull(cli, reference, flags.name)),
    );
}
