/** The words of the network: `net` and `prove`. */
import type { Command } from 'commander';
import { describeLater, type OutputFlags, output, perform } from '../program.ts';

const load = () => import('../commands/net.ts');

export function addNet(program: Command): void {
  const net = program
    .command('net')
    .summary('what sandboxes have of this host’s network')
    .description(
      'Looks at TAPs, addresses, policies and counters of every NeuroVisor on this host.',
    );
  net
    .command('ls')
    .summary('list the networks of sandboxes')
    .addOption(output())
    .action((flags: OutputFlags) => perform(flags, async (cli) => (await load()).netList(cli)));
  net
    .command('inspect')
    .summary('show one network, with what was refused and why')
    .argument('<sandbox>', 'the id, or its beginning')
    .addOption(output())
    .action((sandbox: string, flags: OutputFlags) =>
      perform(flags, async (cli) => (await load()).netInspect(cli, sandbox)),
    );
  net
    .command('latency')
    .summary('measure how long the packets of a sandbox take')
    .description(
      'Measures for a while, by eBPF on its TAP and on the uplink, and shows histograms. Ctrl-C ends it earlier. What the guest does goes on as before.',
    )
    .argument('<sandbox>', 'the id, or its beginning')
    .option('--for <duration>', 'how long, e.g. 30s or 2m (default 5s)')
    .addOption(output())
    .action((sandbox: string, flags: OutputFlags & { readonly for?: string }) =>
      perform(flags, async (cli) =>
        (await import('../commands/net-latency.ts')).netLatency(cli, sandbox, flags),
      ),
    );
  net
    .command('doctor')
    .summary('say whether sandboxes can have a network here')
    .addOption(output())
    .action((flags: OutputFlags) => perform(flags, async (cli) => (await load()).netDoctor(cli)));

  const prove = program
    .command('prove')
    .summary('try to break what the network promises')
    .argument('[names...]', 'proofs')
    .addOption(output())
    .action((names: string[], flags: OutputFlags) =>
      perform(flags, async (cli) =>
        (await import('../commands/prove.ts')).proveNetwork(cli, names),
      ),
    );
  describeLater(prove, async () => {
    const { PROOF_NAMES } = await import('../../prove/prove.ts');
    const what =
      'Makes a host, an internet and guests in network namespaces of its own, and has the guests try to get out; each kind of try beside one that must succeed. Exit status 0: all of it holds.';
    return `${what}\n\nProofs: ${PROOF_NAMES.join(', ')}`;
  });
}
