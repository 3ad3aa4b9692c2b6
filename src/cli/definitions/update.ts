/** Definition of `neurovisor update`. */
import type { Command } from 'commander';
import type { UpdateFlags } from '../commands/update.ts';
import { CHANGES } from '../flags/change-fields.ts';
import { type OutputFlags, performThere } from './perform.ts';
import { addFields, NETWORK_HELP, output, SANDBOX } from './shared-options.ts';

export function addUpdate(program: Command): void {
  const command = program
    .command('update')
    .summary('change a running sandbox')
    .description(
      'Change the network, packages, memory, limits of disks and channel, budget for models, lifetime or labels of a running sandbox. ' +
        'Changes take effect immediately. What is not named stays as it is. A budget replaces the one before, also of forks; what was used of it stays used.',
    )
    .argument(...SANDBOX);
  addFields(command, CHANGES)
    .addOption(output())
    .addHelpText(
      'after',
      `${NETWORK_HELP}
Examples:
  neurovisor update 7ds14n1k --allow-out api.github.com
  neurovisor update 7ds14n1k --net none --timeout 10m
  neurovisor update 7ds14n1k --net-limit bytes=2G,down=5M
  neurovisor update 7ds14n1k --disk-limit rate=20M --rate 5M
  neurovisor update 7ds14n1k --allow-out 'GET https://api.github.com/repos/' --net-limit api.github.com=50M
  neurovisor update 7ds14n1k --memory 768M
  neurovisor update 7ds14n1k --model-budget output=400k,cost=10,per=1d
  neurovisor update 7ds14n1k --packages pip --packages-deny 'torch*'
  neurovisor update 7ds14n1k --packages none
`,
    )
    .action((id: string, flags: UpdateFlags & OutputFlags) =>
      performThere(flags, async (cli, control) => {
        const { update } = await import('../commands/update.ts');
        return await update(cli, control, id, flags);
      }),
    );
}
