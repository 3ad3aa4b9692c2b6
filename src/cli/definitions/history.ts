/** The words for what happens to one sandbox of the daemon: `events`, `logs`, `inspect`. */
import type { Command } from 'commander';
import type { EventsFlags, LogsFlags } from '../commands/history.ts';
import { type OutputFlags, performThere } from './perform.ts';
import { output } from './shared-options.ts';

const load = () => import('../commands/history.ts');

export function addHistory(program: Command): void {
  program
    .command('events')
    .summary('follow what happens to the memory of a sandbox')
    .description(
      'Prints memory pressure, that a kill is near, kills with their victims, what was done about it, and the ' +
        'end of the sandbox: first what is kept, then each as it comes, until it ends or Ctrl-C.',
    )
    .argument('<id>', 'the sandbox')
    .option('--no-follow', 'only what there is now')
    .addOption(output())
    .addHelpText(
      'after',
      `
Examples:
  neurovisor events 7ds14n1k
  neurovisor events 7ds14n1k -o json | jq 'select(.type == "oom")'
`,
    )
    .action((id: string, flags: EventsFlags & OutputFlags) =>
      performThere(flags, async (cli, control) => (await load()).events(cli, control, id, flags)),
    );
  program
    .command('logs')
    .summary('print the console of a sandbox')
    .description(
      'Prints what the guest wrote to its serial console, the last 64 KiB. Also of sandboxes that have ended: ' +
        'of the newest 200, but not of those that were removed while they ran. With --follow lines of its VMM ' +
        'are marked `[vmm]`, and what comes faster than it is read is left out and told.',
    )
    .argument('<id>', 'the sandbox')
    .option(
      '-f, --follow',
      'what comes too, of the console and of its VMM, until it ends or Ctrl-C',
    )
    .option('--vmm', 'what its VMM wrote instead: the last lines')
    .addOption(output())
    .addHelpText(
      'after',
      '\nExamples:\n  neurovisor logs 7ds14n1k | tail\n  neurovisor logs -f 7ds14n1k\n',
    )
    .action((id: string, { vmm, ...flags }: LogsFlags & OutputFlags) =>
      // Elsewhere `--vmm` chooses a VMM; here it is another word.
      performThere(flags, async (cli, control) =>
        (await load()).logs(cli, control, id, { ...flags, vmm: vmm === true }),
      ),
    );
  program
    .command('inspect')
    .summary('show one sandbox, also how it ended')
    .description('Shows a sandbox; of one that has ended, why, and what speaks for it.')
    .argument('<id>', 'the sandbox')
    .addOption(output())
    .addHelpText('after', '\nExample:\n  neurovisor inspect 7ds14n1k -o json\n')
    .action((id: string, flags: OutputFlags) =>
      performThere(flags, async (cli, control) => (await load()).inspect(cli, control, id)),
    );
}
