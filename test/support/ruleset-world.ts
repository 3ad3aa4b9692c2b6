/**
 * Two guests, a host and an internet, each a network namespace, joined by veth pairs:
 *
 *     guest A eth0 ── nv-… (10.201.0.1) ┐
 *                                       host ── up0 198.18.0.1 ── 198.18.0.2 internet (many addresses)
 *     guest B eth0 ── nv-… (10.201.0.5) ┘
 *
 * The host forwards, and the internet knows the way back: without our table, guests reach all of it.
 */
import type { SandboxId } from '../../src/base/ids.ts';
import { type AddressLease, AddressPlan } from '../../src/egress/net/addresses/address-plan.ts';
import { Nft } from '../../src/egress/net/nftables/nft.ts';
import type { ChainInput } from '../../src/egress/net/nftables/sandbox-chains.ts';
import { readTraffic, type SandboxTraffic } from '../../src/egress/net/nftables/sandbox-counters.ts';
import { type EgressPolicyText, parsePolicy } from '../../src/egress/net/policy/egress-rules.ts';
import { Namespace, type Peer } from './namespaces.ts';

export const PUBLIC = ['93.184.216.34', '8.8.8.8', '1.1.1.1', '93.184.216.99'];
export const METADATA4 = ['169.254.169.254', '168.63.129.16', '100.100.100.200', '192.0.0.192'];
export const METADATA6 = ['fd00:ec2::254', 'fd20:ce::254'];
export const PRIVATE = ['10.50.0.1', '192.168.77.1'];
/** A metadata agent on the host itself, like that of EKS Pod Identity. */
export const HOST_METADATA = '169.254.170.23';
/** A public address of the host itself: a rule for names could lead there. */
export const HOST_PUBLIC = '93.184.216.50';
export const UPLINK = '198.18.0.1';
const UPLINK_GATEWAY = '198.18.0.2';

export interface Guest {
  readonly lease: AddressLease;
  readonly namespace: Namespace;
  readonly peer: Peer;
}

export interface World extends AsyncDisposable {
  readonly host: Namespace;
  readonly hostPeer: Peer;
  readonly internet: Peer;
  readonly internetNamespace: Namespace;
  readonly a: Guest;
  readonly b: Guest;
  readonly nft: Nft;
  traffic(guest: Guest): Promise<SandboxTraffic>;
}

/** The network of a guest whose resolver and gateway are at the world's host. */
export function networkOf(guest: Guest, policy: EgressPolicyText, more: Partial<ChainInput> = {}): ChainInput {
  const ports = { dnsPort: 53, gatewayPort: 3128 };
  return { lease: guest.lease, policy: parsePolicy(policy), ...ports, ...more };
}

export async function createWorld(): Promise<World> {
  await using stack = new AsyncDisposableStack();
  const host = stack.use(await Namespace.create());
  const internet = stack.use(await Namespace.create());
  await joinInternet(host, internet);
  const plan = new AddressPlan();
  const a = await joinGuest(stack, host, plan.lease('a'.repeat(20) as SandboxId));
  const b = await joinGuest(stack, host, plan.lease('b'.repeat(20) as SandboxId));
  const hostPeer = await host.peer();
  for (const port of [53, 3128, 2222]) await hostPeer.serve('tcp', '0.0.0.0', port);
  for (const address of [HOST_METADATA, HOST_PUBLIC]) await hostPeer.serve('tcp', address, 80);
  for (const port of [53, 123]) await hostPeer.serve('udp', '0.0.0.0', port);
  const outside = await internet.peer();
  for (const port of [80, 443, 8080, 5432]) await outside.serve('tcp', '::', port);
  for (const port of [53, 443]) {
    for (const address of PUBLIC) await outside.serve('udp', address, port);
  }
  const nft = new Nft({ command: [...host.enter, 'nft'] });
  const rest = stack.move();
  return {
    host,
    hostPeer,
    internet: outside,
    internetNamespace: internet,
    a,
    b,
    nft,
    async traffic({ lease }) {
      const found = readTraffic(await nft.listTraffic()).get(lease.id);
      if (found === undefined) throw new Error(`no counters of ${lease.id}`);
      return found;
    },
    [Symbol.asyncDispose]: () => rest.disposeAsync(),
  };
}

async function joinInternet(host: Namespace, internet: Namespace): Promise<void> {
  await host.joinTo(internet, 'up0', 'eth0');
  await host.run('ip', 'address', 'add', `${UPLINK}/24`, 'dev', 'up0');
  await internet.run('ip', 'address', 'add', `${UPLINK_GATEWAY}/24`, 'dev', 'eth0');
  await host.run('ip', '-6', 'address', 'add', 'fd99::1/64', 'dev', 'up0', 'nodad');
  await internet.run('ip', '-6', 'address', 'add', 'fd99::2/64', 'dev', 'eth0', 'nodad');
  for (const address of [...PUBLIC, ...METADATA4, ...PRIVATE]) {
    await internet.run('ip', 'address', 'add', `${address}/32`, 'dev', 'lo');
  }
  for (const address of METADATA6) {
    await internet.run('ip', '-6', 'address', 'add', `${address}/128`, 'dev', 'lo', 'nodad');
  }
  for (const address of [HOST_METADATA, HOST_PUBLIC]) {
    await host.run('ip', 'address', 'add', `${address}/32`, 'dev', 'lo');
  }
  await host.run('ip', 'route', 'add', 'default', 'via', UPLINK_GATEWAY);
  await host.run('ip', '-6', 'route', 'add', 'default', 'via', 'fd99::2');
  await internet.run('ip', 'route', 'add', '10.201.0.0/16', 'via', UPLINK);
  await internet.run('ip', '-6', 'route', 'add', 'fdaa::/16', 'via', 'fd99::1');
  await host.setSysctl('ipv4/ip_forward', '1');
  await host.setSysctl('ipv6/conf/all/forwarding', '1');
}

async function joinGuest(stack: AsyncDisposableStack, host: Namespace, lease: AddressLease): Promise<Guest> {
  const namespace = stack.use(await Namespace.create());
  const { tap, hostAddress, guestAddress, guestMac, prefix } = lease;
  await host.joinTo(namespace, tap, 'eth0');
  await namespace.run('ip', 'link', 'set', 'eth0', 'address', guestMac);
  await host.run('ip', 'address', 'add', `${hostAddress}/${prefix}`, 'dev', tap);
  await namespace.run('ip', 'address', 'add', `${guestAddress}/${prefix}`, 'dev', 'eth0');
  await host.run('ip', '-6', 'address', 'add', `fdaa:${tap.charCodeAt(3)}::1/64`, 'dev', tap, 'nodad');
  await namespace.run('ip', '-6', 'address', 'add', `fdaa:${tap.charCodeAt(3)}::2/64`, 'dev', 'eth0', 'nodad');
  await namespace.run('ip', 'route', 'add', 'default', 'via', hostAddress);
  await namespace.run('ip', '-6', 'route', 'add', 'default', 'via', `fdaa:${tap.charCodeAt(3)}::1`);
  return { lease, namespace, peer: await namespace.peer() };
}
