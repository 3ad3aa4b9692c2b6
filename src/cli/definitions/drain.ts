/** Definitions of `cordon`, `uncordon` and `drain`. */
import type { Command } from 'commander';
import type { DrainFlags } from '../commands/keys/drain.ts';
import * as ranges from '../flags/ranges.ts';
import { type OutputFlags, perform, performThere } from './perform.ts';
import { output } from './shared-options.ts';

const load = () => import('../commands/keys/drain.ts');

export function addDrain(program: Command): void {
  program
    .command('cordon')
    .summary('refuse new sandboxes')
    .description(
      'Refuse new sandboxes: creations, forks and members of pools. Sandboxes that exist go on, and can be paused and ' +
        'resumed. It holds until `uncordon`, also in the next daemon. Only for the operator. (Preview.)',
    )
    .addOption(output())
    .action((flags: OutputFlags) => perform(flags, async (cli) => (await load()).setCordon(cli, true)));
  program
    .command('uncordon')
    .summary('accept new sandboxes again')
    .description('Accept new sandboxes again, after `cordon` or `drain`. Only for the operator.')
    .addOption(output())
    .action((flags: OutputFlags) => perform(flags, async (cli) => (await load()).setCordon(cli, false)));
  program
    .command('drain')
    .summary('empty the host before maintenance')
    .description(
      'Refuse new sandboxes, as `cordon` does, and wait until none runs. Ctrl-C stops the wait; the host stays cordoned. ' +
        'Exit status 124: some still run. Only for the operator. (Preview.)',
    )
    .option('--timeout <time>', 'how long to wait (default: 10m)', ranges.timeout)
    .option('--pause', 'pause the sandboxes to disk, those without a model request first; runs end by themselves')
    .addOption(output())
    .addHelpText(
      'after',
      `
Example:
  neurovisor drain --pause && systemctl stop neurovisor
`,
    )
    .action((flags: DrainFlags & OutputFlags) =>
      performThere(flags, async (cli, daemon) => (await load()).drain(cli, daemon, flags)),
    );
}
