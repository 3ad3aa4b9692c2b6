/** Definition of `neurovisor create`. */
import type { Command } from 'commander';
import type { CreateFlags } from '../commands/create.ts';
import { CREATE_FIELDS } from '../flags/sandbox-fields.ts';
import { moreOptionsText, sortOptions, whenAll } from './help.ts';
import { type OutputFlags, performThere } from './perform.ts';
import { addFieldGroups, NETWORK_HELP, output } from './shared-options.ts';

export function addCreate(program: Command): void {
  const command = program
    .command('create')
    .summary('create a sandbox')
    .description(
      'Create a sandbox in the daemon and print its ID. It runs until `neurovisor rm` or its timeout. ' +
        'The sandbox comes from the warm pool, or else is cloned from a template, or else boots.',
    );
  addFieldGroups(command, CREATE_FIELDS)
    .optionsGroup('How it runs:')
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
  sortOptions(command, [
    '--name',
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
