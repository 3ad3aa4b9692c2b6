/** Definitions of the commands that observe one sandbox: `events`, `logs`, `inspect`. */
import type { Command } from 'commander';
import type { EventsFlags, LogsFlags } from '../commands/history.ts';
import { tail } from '../flags/ranges.ts';
import { type OutputFlags, performThere } from './perform.ts';
import { output, SANDBOX } from './shared-options.ts';

const programLogs = () => import('../commands/program-logs.ts');
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
    .summary('print the output of a program, or the console of a sandbox')
    .description(
      'With PID: print what a program wrote, the last 64 KiB of each stream, also after its end. A notice on standard ' +
        'error tells what is no longer kept.\n\n' +
        'Without PID: print the serial console of the guest, the last 64 KiB. The logs of the last 200 ended sandboxes are ' +
        'kept, except for those removed with `rm`. With --follow, lines of the VMM are marked `[vmm]`; output ' +
        'that arrives faster than it is read is skipped, with a notice.',
    )
    .argument(...SANDBOX)
    .argument('[pid]', 'pid of the program, as `neurovisor ps -a` lists it')
    .option('-f, --follow', 'also print new output')
    .option('--tail <lines>', 'with PID: only the last lines of each stream (default: all)', tail)
    .option('--vmm-log', 'print the log of the VMM instead')
    .addOption(output())
    .addHelpText(
      'after',
      '\nExamples:\n  neurovisor logs 7ds14n1k | tail\n  neurovisor logs -f 7ds14n1k\n  neurovisor logs -f --tail 10 7ds14n1k 1234\n',
    )
    .action((id: string, pid: string | undefined, flags: LogsFlags & OutputFlags) =>
      performThere(
        flags,
        async (cli, control) =>
          pid === undefined
            ? await (await load()).logs(cli, control, id, flags)
            : await (await programLogs()).programLogs(cli, control, id, pid, flags),
        async (cli) => (await programLogs()).checkLogs(cli, pid, flags),
      ),
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
