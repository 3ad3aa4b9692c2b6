/** Definitions of `neurovisor template`. */
import type { Command } from 'commander';
import type { TemplateFlags } from '../commands/template.ts';
import { type OutputFlags, perform } from './perform.ts';
import {
  addRequirementOptions,
  addSizeOptions,
  cardOption,
  collect,
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
        'identity. Sandboxes start as clones of a template of their size and modules.',
    );
  const build = template
    .command('build')
    .summary('build a template')
    .description('Build a template, if it does not exist, and show its details.');
  addRequirementOptions(addSizeOptions(build))
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
    .argument('<key>', 'template key, or a unique prefix of it')
    .addOption(output())
    .action((key: string, flags: OutputFlags) =>
      perform(flags, async (cli) => (await load()).templateInspect(cli, key)),
    );
  template
    .command('rm')
    .summary('remove templates')
    .description('Remove templates. Sandboxes that started from them are not affected.')
    .argument('<keys...>', 'template keys, or unique prefixes of them')
    .addOption(output())
    .action((keys: string[], flags: OutputFlags) =>
      perform(flags, async (cli) => (await load()).templateRemove(cli, keys)),
    );
}
