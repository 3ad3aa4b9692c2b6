/** The words of `neurovisor template`. */
import type { Command } from 'commander';
import type { TemplateFlags } from '../commands/template.ts';
import { type OutputFlags, perform } from './perform.ts';
import { addSizeOptions, collect, memoryMaxOption, output } from './shared-options.ts';

const load = () => import('../commands/template.ts');

export function addTemplate(program: Command): void {
  const template = program
    .command('template')
    .summary('what sandboxes start from')
    .description(
      'A template is a booted guest with modules imported, kept without identity; `run` starts copies of it.',
    );
  addSizeOptions(template.command('build').summary('build a template, unless it is there'))
    .addOption(memoryMaxOption())
    .option('--warm <module>', 'import this instead of the default list', collect, [])
    .addOption(output())
    .action((flags: TemplateFlags & OutputFlags) =>
      perform(flags, async (cli) => (await load()).templateBuild(cli, flags)),
    );
  template
    .command('ls')
    .summary('list the templates of this machine')
    .addOption(output())
    .action((flags: OutputFlags) =>
      perform(flags, async (cli) => (await load()).templateList(cli)),
    );
  template
    .command('inspect')
    .summary('tell what a template was made from')
    .argument('<key>', 'the key, or its beginning')
    .addOption(output())
    .action((key: string, flags: OutputFlags) =>
      perform(flags, async (cli) => (await load()).templateInspect(cli, key)),
    );
  template
    .command('rm')
    .summary('remove templates')
    .argument('<keys...>', 'keys, or their beginnings')
    .addOption(output())
    .action((keys: string[], flags: OutputFlags) =>
      perform(flags, async (cli) => (await load()).templateRemove(cli, keys)),
    );
}
