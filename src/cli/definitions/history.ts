/** Definitions of the commands that observe one sandbox: `events`, `logs`, `inspect`. */
import type { Command } from 'commander';
import type { EventsFlags, LogsFlags } from '../commands/history.ts';
import { type OutputFlags, performThere } from './perform.ts';
import { output, SANDBOX } from './shared-options.ts';

const load = () => import('../commands/history.ts');

export function addHistory(program: Command): void {
  program
    .command('events')
    .summary('print the events of a sandbox')
    .description(
      'Print the events of a sandbox: memory pressure, near OOM, OOM kills with their victims, the actions ' +
        'taken, disk errors, security violations, and its end.',
    )
    .argument(...SANDBOX)
    .option('-f, --follow', 'also print new events, until the sandbox ends or Ctrl-C')
    .addOption(output())
    .addHelpText(
      'after',
      `
Examples:
  neurovisor events 7ds14n1k
  neurovisor events -f 7ds14n1k -o json | jq 'select(.type == "oom")'
`,
    )
    .action((id: string, flags: EventsFlags & OutputFlags) =>
      performThere(flags, async (cli, control) => (await load()).events(cli, control, id, flags)),
    );
  program
    .command('logs')
    .summary('print the console of a sandbox')
    .description(
      'Print the serial console of the guest, the last 64 KiB. The logs of the last 200 ended sandboxes are ' +
        'kept, except for those removed with `rm`. With --follow, lines of the VMM are marked `[vmm]`; output ' +
        'that arrives faster than it is read is skipped, with a notice.',
    )
    .argument(...SANDBOX)
    .option('-f, --follow', 'also print new output of the console and the VMM')
    .option('--vmm-log', 'print the log of the VMM instead')
    .addOption(output())
    .addHelpText('after', '\nExamples:\n  neurovisor logs 7ds14n1k | tail\n  neurovisor logs -f 7ds14n1k\n')
    .action((id: string, flags: LogsFlags & OutputFlags) =>
      performThere(flags, async (cli, control) => (await load()).logs(cli, control, id, flags)),
    );
  program
    .command('inspect')
    .summary('show the details of a sandbox')
    .description('Show the details of a sandbox. For an ended sandbox, also show the cause and the evidence.')
    .argument(...SANDBOX)
    .addOption(output())
    .addHelpText('after', '\nExample:\n  neurovisor inspect 7ds14n1k -o json\n')
    .action((id: string, flags: OutputFlags) =>
      performThere(flags, async (cli, control) => (await load()).inspect(cli, control, id)),
    );
}
