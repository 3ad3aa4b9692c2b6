/** Definitions of `neurovisor net` and `neurovisor prove`. */
import type { Command } from 'commander';
import type { NetDoctorFlags } from '../commands/net.ts';
import type { ProveFlags } from '../commands/prove.ts';
import { parseDuration } from '../flags/options.ts';
import { hostileGuests } from '../flags/ranges.ts';
import { describeLater } from './help.ts';
import { type OutputFlags, perform } from './perform.ts';
import { output, vmmOption } from './shared-options.ts';

const load = () => import('../commands/net.ts');

const ENDPOINT = `
With --endpoint, egress runs in sandboxes of another service, through E2B's client. The URL is the value of
--endpoint, or else E2B_API_URL, or else api. plus --domain. The API key is E2B_API_KEY or NEUROVISOR_API_KEY.
A canary on a machine of yours, with a DNS zone delegated to it, observes what gets out.

Examples:
  neurovisor prove
  neurovisor prove metadata egress
  neurovisor prove canary --address 203.0.113.5 --zone canary.example.org
  neurovisor prove egress --endpoint https://api.example.com --canary canary.example.org
`;

export function addNet(program: Command): void {
  const net = program
    .command('net')
    .summary('inspect the networks of sandboxes')
    .description(
      'Inspect the TAPs, addresses, policies and counters of every NeuroVisor process on this host.',
    );
  net
    .command('ls')
    .summary('list the networks of sandboxes')
    .description('List the networks of sandboxes, with their traffic and refused packets.')
    .addOption(output())
    .action((flags: OutputFlags) => perform(flags, async (cli) => (await load()).netList(cli)));
  net
    .command('inspect')
    .summary('show the network of a sandbox')
    .description('Show the network of a sandbox, with refused packets and the reasons.')
    .argument('<sandbox>', 'sandbox ID, or a unique prefix of it')
    .addOption(output())
    .action((sandbox: string, flags: OutputFlags) =>
      perform(flags, async (cli) => (await load()).netInspect(cli, sandbox)),
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
      perform(flags, async (cli) =>
        (await import('../commands/net-latency.ts')).netLatency(cli, sandbox, flags),
      ),
    );
  net
    .command('doctor')
    .summary('check whether sandboxes can have a network here')
    .description(
      'Check whether sandboxes can have a network on this host, and print how to fix what does not work. ' +
        'Exit status 1: they cannot.',
    )
    .option(
      '--clean',
      'first remove what dead processes left behind: TAPs, rules, ip_forward, records',
    )
    .addOption(output())
    .action((flags: NetDoctorFlags & OutputFlags) =>
      perform(flags, async (cli) => (await load()).netDoctor(cli, flags)),
    );

  const prove = program
    .command('prove')
    .summary('try to break the isolation of sandboxes')
    .argument('[names...]', 'proofs (default: all but load), or canary')
    .option('--endpoint [url]', 'egress: test another service with the E2B API')
    .option('--domain <name>', 'endpoint: domain of its sandboxes (default: E2B_DOMAIN)')
    .option('--template <name>', 'endpoint: template of its sandboxes (default: base)')
    .option('--canary <host>', 'endpoint: host that runs neurovisor prove canary')
    .option(
      '--zone <name>',
      'DNS zone whose names resolve to the canary (default: name of the canary)',
    )
    .option('--allow-name <name>', 'endpoint without a canary: public web site to allow')
    .option('--deny-name <name>', 'endpoint without a canary: public web site to deny')
    .option('--resolver <address>', 'endpoint without a canary: public resolver (default: 8.8.8.8)')
    .addOption(vmmOption())
    .option('--for <duration>', 'load: duration (default: 1m)', parseDuration)
    .option('--guests <count>', 'image: number of hostile guests (default: 1)', hostileGuests)
    .option('--listen <address>', 'canary: address to listen on (default: 0.0.0.0)')
    .option(
      '--address <address>',
      'canary: address that its names resolve to (default: the listen address)',
    )
    .addOption(output())
    .action((names: string[], flags: OutputFlags & ProveFlags) =>
      perform(flags, async (cli) =>
        (await import('../commands/prove.ts')).prove(cli, names, flags),
      ),
    );
  prove.addHelpText('after', ENDPOINT);
  describeLater(prove, async () => {
    const { PROOF_NAMES } = await import('../../prove/prove.ts');
    const what = [
      'Try to break the isolation of sandboxes, and print what held. Each attempt is paired with a control that must succeed.',
      'Exit status: 0 everything holds, 1 something does not hold, 2 usage error, or the endpoint could not be tested.',
      'metadata, egress: build a host, an internet and guests in network namespaces, and let the guests try to get out.',
      'secrets: let guests use a secret at its host, and try to read its value or to use it at another host.',
      'xdp: send packets with known counts and delays, and check that `net latency` reports them.',
      'seccomp, caps, cgroup: let jailed VMMs do what a compromised VMM would do.',
      'image: let guest root, in over a hundred ways, and its VMM try to change the golden image; with --guests in many guests.',
      'io: let a guest and a program in a group exceed their disk limits.',
      'files: let guest root answer `cp` and directory listings instead of the agent.',
      'engine: let the built-in model server do what a compromised one would do.',
      'oom: exhaust memory, and end sandboxes in several ways.',
      'load (only if named): run, pause and save a sandbox under load, and count refused system calls of its VMM.',
      'With --vmm firecracker: seccomp, caps, cgroup and image test Firecracker.',
    ].join('\n\n');
    return `${what}\n\nProofs: ${PROOF_NAMES.join(', ')}`;
  });
}
