/** Definitions of `neurovisor net` and `neurovisor prove`. */
import type { Command } from 'commander';
import { loadBeside, type ProveFlags } from '../beside.ts';
import { parseDuration } from '../flags/options.ts';
import { hostileGuests } from '../flags/ranges.ts';
import { describeLater } from './help.ts';
import { type OutputFlags, perform, performHere } from './perform.ts';
import { listCommand, output, vmmOption } from './shared-options.ts';

const load = () => import('../commands/net.ts');

export function addNet(program: Command): void {
  const net = program
    .command('net')
    .summary('inspect the networks of sandboxes')
    .description('Inspect the TAPs, addresses, policies and counters of every NeuroVisor process on this host.');
  listCommand(net)
    .summary('list the networks of sandboxes')
    .description('List the networks of sandboxes, with their traffic and refused packets.')
    .addOption(output())
    .action((flags: OutputFlags) => performHere(flags, async (cli) => (await load()).netList(cli)));
  net
    .command('inspect')
    .summary('show the network of a sandbox')
    .description('Show the network of a sandbox, with refused packets and the reasons.')
    .argument('<sandbox>', 'sandbox ID, or a unique prefix of it')
    .addOption(output())
    .action((sandbox: string, flags: OutputFlags) =>
      performHere(flags, async (cli) => (await load()).netInspect(cli, sandbox)),
    );
  net
    .command('latency')
    .summary('measure the packet latency of a sandbox')
    .description(
      'Measure packet latency with eBPF on the TAP and the uplink, and print histograms. Ctrl-C stops early. The guest is not affected.',
    )
    .argument('<sandbox>', 'sandbox ID, or a unique prefix of it')
    .option('--for <duration>', 'duration, for example 30s or 2m (default: 5s)')
    .addOption(output())
    .action((sandbox: string, flags: OutputFlags & { readonly for?: string }) =>
      performHere(flags, async (cli) => (await import('../commands/net-latency.ts')).netLatency(cli, sandbox, flags)),
    );

  const prove = program
    .command('prove')
    .summary('try to break the isolation of sandboxes')
    .argument('[names...]', 'proofs (default: all but load)')
    .addOption(vmmOption())
    .option('--for <duration>', 'load: duration (default: 1m)', parseDuration)
    .option('--guests <count>', 'image: number of hostile guests (default: 1)', hostileGuests)
    .addOption(output())
    .action((names: string[], flags: OutputFlags & ProveFlags) =>
      perform(flags, async (cli) => (await loadBeside('prove')).prove(cli, names, flags)),
    );
  describeLater(prove, async () => (await loadBeside('prove')).description());
}
