/** Definitions of `neurovisor template`. */
import type { Command } from 'commander';
import type { TemplateFlags } from '../commands/template.ts';
import { type OutputFlags, perform } from './perform.ts';
import {
  addRequirementOptions,
  addSizeOptions,
  cardOption,
  collect,
  imageOption,
  memoryMaxOption,
  output,
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
        'template has moves to this one once it is built.',
    )
    .option('-t, --tag <name>', 'name of the template, for --template')
    .option(
      '--start <command>',
      'start this program before the template is saved, with sh -c; it runs in every sandbox of the template',
    )
    .option('--ready <command>', 'save the template once this command exits with 0')
    .option(
      '--ready-timeout <time>',
      'fail if the program is not ready by then, for example 90s or 5m (default: 2m)',
    );
  addRequirementOptions(addSizeOptions(build).addOption(imageOption()))
    .addOption(memoryMaxOption())
    .addOption(cardOption())
    .option(
      '--warm <module>',
      'Python module to import instead of the default list (repeatable)',
      collect,
      [],
    )
    .addOption(output())
    .action((flags: TemplateFlags & OutputFlags) =>
      perform(flags, async (cli) => (await load()).templateBuild(cli, flags)),
    );
  template
    .command('ls')
    .summary('list templates')
    .description('List the templates of this machine.')
    .addOption(output())
    .action((flags: OutputFlags) =>
      perform(flags, async (cli) => (await load()).templateList(cli)),
    );
  template
    .command('inspect')
    .summary('show the details of a template')
    .description('Show what a template was made from, and what it contains.')
    .argument('<template>', 'template name, key, or a unique prefix of its key')
    .addOption(output())
    .action((key: string, flags: OutputFlags) =>
      perform(flags, async (cli) => (await load()).templateInspect(cli, key)),
    );
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
