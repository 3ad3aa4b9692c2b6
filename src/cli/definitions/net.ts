/** The words of the network: `net` and `prove`. */
import { type Command, Option } from 'commander';
import type { DoctorFlags } from '../commands/net.ts';
import type { ProveFlags } from '../commands/prove.ts';
import { parseDuration } from '../flags/options.ts';
import { describeLater } from './help.ts';
import { type OutputFlags, perform } from './perform.ts';
import { output, vmmOption } from './shared-options.ts';

const load = () => import('../commands/net.ts');

const ENDPOINT = `
Another endpoint: egress is tried in sandboxes of that endpoint, through E2B's client. It is at --endpoint,
else at E2B_API_URL or api. and --domain; its key is in E2B_API_KEY or NEUROVISOR_API_KEY. What gets out is
seen at a canary, which has a zone delegated to it and runs on a machine of yours:
  neurovisor prove canary --address 203.0.113.5 --zone canary.example.org
  neurovisor prove egress --endpoint https://api.example.com --canary canary.example.org
Exit status 2: it could not be tried.
`;

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
    .option(
      '--clean',
      'first take away what ended processes left: TAPs, rules, ip_forward, records',
    )
    .addOption(output())
    .action((flags: DoctorFlags & OutputFlags) =>
      perform(flags, async (cli) => (await load()).netDoctor(cli, flags)),
    );

  const prove = program
    .command('prove')
    .summary('try to break what is promised of sandboxes')
    .argument('[names...]', 'proofs, or canary')
    .option('--endpoint [url]', 'egress: prove it of another endpoint that speaks E2B’s API')
    .option('--domain <name>', 'of the endpoint, for what its sandboxes are called (E2B_DOMAIN)')
    .option('--template <name>', 'what the endpoint makes sandboxes of (default base)')
    .option('--canary <host>', 'machine of yours where neurovisor prove canary runs')
    .option('--zone <name>', 'below which every name leads to the canary (default its own)')
    .option('--allow-name <name>', 'without a canary: a public web site to allow')
    .option('--deny-name <name>', 'and another one, that is not')
    .option('--resolver <address>', 'and a public resolver (default 8.8.8.8)')
    .addOption(vmmOption())
    .option('--for <duration>', 'load: how long (default 1m)', parseDuration)
    .addOption(
      new Option(
        '--allow-older',
        'for tests: also a Firecracker that sandboxes do not take',
      ).hideHelp(),
    )
    .option('--listen <address>', 'canary: where to listen (default 0.0.0.0)')
    .option('--address <address>', 'canary: where its names lead, if not to that address')
    .addOption(output())
    .action((names: string[], flags: OutputFlags & ProveFlags) =>
      perform(flags, async (cli) =>
        (await import('../commands/prove.ts')).prove(cli, names, flags),
      ),
    );
  prove.addHelpText('after', ENDPOINT);
  describeLater(prove, async () => {
    const { PROOF_NAMES } = await import('../../prove/prove.ts');
    const what =
      'metadata, egress: makes a host, an internet and guests in network namespaces of its own, and has the guests try to get out. ' +
      'secrets: has guests there use a secret at its host, and try to get at its value, or at another host. ' +
      'xdp: has packets of known number and delay pass, and sees that what `net latency` measures is that. ' +
      'seccomp, caps, cgroup: has VMMs of its own, in their jails, do what one that was taken over would. ' +
      'image: has the root of a guest, and its VMM, try to change the golden image. ' +
      'oom: has programs take all memory, and sandboxes end in several ways. ' +
      'load (only when named): works, pauses and saves a sandbox, and counts system calls that its VMM was refused. ' +
      'With --vmm firecracker seccomp, caps, cgroup and image are about Firecracker. ' +
      'Each kind of try stands beside one that must succeed. Exit status 0: all of it holds; 1: it does not.';
    return `${what}\n\nProofs: ${PROOF_NAMES.join(', ')}`;
  });
}
