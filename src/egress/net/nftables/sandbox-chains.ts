/** The rules of one sandbox by chain, in the order in which its packets pass them. Pure. */
import { createHash } from 'node:crypto';
import { assert } from '../../../base/assert.ts';
import type { SandboxId } from '../../../base/ids.ts';
import { type AddressLease, TAP_PREFIX } from '../addresses/address-plan.ts';
import type { AddressRange } from '../addresses/addresses.ts';
import { allowedPackets, deniedPackets, type PacketSet } from '../policy/packet-sets.ts';
import { decidesByName, type EgressPolicy, NAME_PORTS, type Transport } from '../policy/policy.ts';
import {
  ACCEPT,
  addressElement,
  anyOf,
  assign,
  atMost,
  beyondConnections,
  beyondPackets,
  beyondRate,
  CT_DIRECTION,
  CT_STATE,
  CT_STATUS,
  CT_ZONE,
  count,
  DESTINATION,
  DESTINATION_ROUTE,
  DPORT,
  DROP,
  ETHER_SADDR,
  equal,
  goTo,
  hasBit,
  IP_DADDR,
  IP_SADDR,
  jumpTo,
  L4PROTO,
  MARK,
  NFPROTO,
  type NftExpression,
  notEqual,
  numberElement,
  OIFNAME,
  PACKET_BYTES,
  PROHIBITED,
  RESET,
  SOURCE_ROUTE,
  TCP_FLAGS,
  within,
} from './json.ts';
import { budgetOf, type CounterName, counterOf } from './sandbox-counters.ts';
import type { TableOwner } from './table-owners.ts';

export interface ChainInput {
  readonly lease: AddressLease;
  /** Written into the table, so that another process can remove the sandbox after the owner's death. */
  readonly owner?: TableOwner;
  readonly policy: EgressPolicy;
  /** Port of our resolver on the lease's host address. Without it, the guest has no DNS. */
  readonly dnsPort?: number;
  /** Port of our gateway there; it gets TCP 80 and 443 if the policy decides by name. */
  readonly gatewayPort?: number;
  /** If true, the gateway always gets TCP 443, to fill in secrets. */
  readonly decryptsTls?: boolean;
  /** Other ports of the host address that the guest may use. */
  readonly hostPorts?: readonly { readonly protocol: Transport; readonly port: number }[];
  readonly limits?: TrafficLimits;
  /** Part of `bytesMax` used before this lease. */
  readonly bytesUsed?: number;
}

export interface TrafficLimits {
  /** Limit of IPv4 packets through and to the host, both directions together, including refused ones. */
  readonly bytesMax?: number;
  readonly uploadBytesPerSecond?: number;
  readonly downloadBytesPerSecond?: number;
  /** Limit of open connections, through and to the host together, excluding lookups at our resolver. */
  readonly connectionsMax?: number;
}

/** Keeps a guest from filling the host's connection table, which all guests share. */
const CONNECTIONS_DEFAULT = 2048;
/**
 * Added to one second of the rate in the kernel's bucket. With offloads, one packet of a TAP has up to 64 KiB, which a
 * small rate alone would never let through.
 */
const BURST_BYTES = 128 * 1024;
/**
 * Segments turned into resets for a guest with an exhausted budget, so that a program that only reads notices the end.
 * Limited, since a hostile guest may read their data.
 */
const RESET_BYTES_MAX = 256 * 1024;
/** Longer packets are merged segments, which the sender then retransmits one by one. */
const RESET_PACKET_BYTES_MAX = 1500;
/** IPv4 and TCP header without options or data, as the kernel and closed sockets send them. */
const BARE_RESET_BYTES = 40;
/**
 * Limit of packets to our resolver, and of first packets to our gateway, per second and at once. All sandboxes share
 * the event loop that reads them. Higher than what the resolver answers (`NAME_LIMITS`), and than what clients open.
 */
const LOOKUP_PACKETS = { perSecond: 400, burst: 800 } as const;
const OPENING_PACKETS = { perSecond: 500, burst: 1000 } as const;
/** Idle time after which a connection to a pinned address needs a new DNS answer to continue. */
const FLOW_SECONDS = 600;

type SandboxRule = readonly NftExpression[];
export const METADATA_SET = 'metadata';
/** Private and special ranges. One set for all sandboxes, since `nft` reads all interval sets before it changes one. */
export const RESERVED_SET = 'reserved';
export const ANY_TAP = `${TAP_PREFIX}*`;

/**
 * Marks packets that this host sends to a guest on purpose (`guest-connection.ts`). A process that may set marks may
 * also change this table. The lower half avoids the bits that Kubernetes uses.
 */
export const HOST_MARK = 0x6e76_0001;

/** Set from `from` to `unmark`: a packet without it has passed none of our rules (`flush-guard.ts`). */
export const GUARD_MARK = 0x6e76_0002;
/** Priorities of netfilter_ipv4.h, all before connection tracking (-200). */
export const FROM_PRIORITY = -300;
export const GUARD_PRIORITY = -299;
export const UNMARK_PRIORITY = -298;

/** Name prefixes of a sandbox's chains and sets; the id follows. */
export const SANDBOX_CHAINS = ['from', 'nat', 'input', 'forward', 'to'] as const;
export type SandboxChain = (typeof SANDBOX_CHAINS)[number];
/** Everything that `to` allows to the guest. */
export const INTO_CHAIN = 'into';
export const SANDBOX_SETS = ['pins', 'flows'] as const;
/**
 * Chains with state, which others jump to. Rewriting one resets its counts, so an update does not touch those with an
 * unchanged limit.
 *
 *     conns: the first packet of a connection beyond the limit
 *     lookups: likewise for connections to our resolver, which the user's limit excludes
 *     spent: packets to a guest whose budget is exhausted
 */
export const KEPT_CHAINS = ['conns', 'lookups', 'spent'] as const;
export type KeptChain = (typeof KEPT_CHAINS)[number];
/** Shared by all sandboxes: refuses with a reset or ICMP, so that the guest does not wait for a timeout. */
export const REFUSE_CHAIN = 'refuse';

export function ownName(
  id: SandboxId,
  what: SandboxChain | KeptChain | typeof INTO_CHAIN | (typeof SANDBOX_SETS)[number],
): string {
  return `${what}_${id}`;
}

export function sandboxRules(input: ChainInput): Record<SandboxChain | typeof INTO_CHAIN, readonly SandboxRule[]> {
  assertInput(input);
  return {
    into: intoRules(input),
    from: fromRules(input),
    nat: natRules(input),
    input: inputRules(input),
    forward: forwardRules(input),
    to: toRules(input),
  };
}

export function keptRules({ lease, limits }: ChainInput): Record<KeptChain, readonly SandboxRule[]> {
  const { id } = lease;
  const most = limits?.connectionsMax ?? CONNECTIONS_DEFAULT;
  const tooMany = (connections: number): SandboxRule => [
    beyondConnections(connections),
    count(counterOf(id, 'connections')),
    goTo(REFUSE_CHAIN),
  ];
  return {
    conns: [tooMany(most)],
    lookups: [tooMany(CONNECTIONS_DEFAULT)],
    spent: [
      [
        equal(L4PROTO, 'tcp'),
        atMost(PACKET_BYTES, RESET_PACKET_BYTES_MAX),
        within(RESET_BYTES_MAX),
        assign(TCP_FLAGS, 'rst'),
        ACCEPT,
      ],
      dropOf(id)('budget'),
    ],
  };
}

/** Chains that an update must rewrite. */
export function renewedChains(before: TrafficLimits, after: TrafficLimits): KeptChain[] {
  return [
    ...(before.connectionsMax === after.connectionsMax ? [] : (['conns'] as const)),
    ...(before.bytesMax === after.bytesMax ? [] : (['spent'] as const)),
  ];
}

export const REFUSE_RULES: readonly SandboxRule[] = [[equal(L4PROTO, 'tcp'), RESET], [PROHIBITED]];

/**
 * Everything from the TAP, before connection tracking: checks the sender, and drops what no guest may send. Metadata
 * services are blocked here, before other programs translate any address.
 */
function fromRules({ lease, limits = {} }: ChainInput): SandboxRule[] {
  const { id } = lease;
  const drop = dropOf(id);
  return [
    [count(counterOf(id, 'seen'))],
    drop('spoofed', notEqual(ETHER_SADDR, lease.guestMac)),
    drop('ipv6', equal(NFPROTO, 'ipv6')),
    drop('spoofed', notEqual(IP_SADDR, lease.guestAddress)),
    drop('metadata', equal(IP_DADDR, `@${METADATA_SET}`)),
    ...rateRule(id, limits.uploadBytesPerSecond),
    [assign(CT_ZONE, zoneOf(id))],
    [assign(MARK, GUARD_MARK)],
    [ACCEPT],
  ];
}

/** First packets of connections: redirects to our resolver and gateway. */
function natRules({ policy, dnsPort, gatewayPort, decryptsTls }: ChainInput): SandboxRule[] {
  const rules: SandboxRule[] = [];
  if (dnsPort !== undefined && policy.mode !== 'none') {
    // No name may leave through another resolver, so every DNS query goes to ours.
    rules.push([...TCP_OR_UDP, equal(DPORT, DNS_PORT), { redirect: { port: dnsPort } }]);
  }
  const isDecrypted = decryptsTls === true && policy.mode !== 'none';
  if (gatewayPort === undefined || !(decidesByName(policy) || isDecrypted)) return rules;
  const direct = (set: PacketSet): SandboxRule[] => matches(set).map((match): SandboxRule => [match, ACCEPT]);
  // The gateway dials as the host, which reaches its own services: only `input` may open those to a guest.
  rules.push([equal(DESTINATION_ROUTE, 'local'), ACCEPT], ...direct(deniedPackets(policy)));
  const redirect = { redirect: { port: gatewayPort } };
  const toGateway = (what: SandboxRule): SandboxRule[] =>
    matches(allowedPackets(policy)).map((match) => [match, ...what, redirect]);
  // A rule for a block needs no name, unless the policy denies names, or a secret may belong to one.
  if (deniesNames(policy)) rules.push(...toGateway(WEB));
  else rules.push(...(isDecrypted ? toGateway(TLS) : []), ...direct(allowedPackets(policy)));
  const all = decidesByName(policy) ? WEB : TLS;
  return [...rules, [equal(IP_DADDR, `@${RESERVED_SET}`), ACCEPT], [...all, redirect]];
}

function inputRules(input: ChainInput): SandboxRule[] {
  const { lease, policy, dnsPort, gatewayPort, hostPorts = [] } = input;
  const { id, hostAddress } = lease;
  const take = (protocol: Transport, port: number, ...more: NftExpression[]): SandboxRule => [
    equal(IP_DADDR, hostAddress),
    equal(L4PROTO, protocol),
    equal(DPORT, port),
    ...more,
    count(counterOf(id, 'host')),
    ACCEPT,
  ];
  const rules: SandboxRule[] = [dropOf(id)('invalid', hasBit(CT_STATE, 'invalid'))];
  rules.push(budgetRule(id));
  // Replies on a connection that the host opened.
  rules.push([
    equal(CT_DIRECTION, 'reply'),
    hasBit(CT_STATE, 'established'),
    equal(L4PROTO, 'tcp'),
    equal(IP_DADDR, hostAddress),
    count(counterOf(id, 'host')),
    ACCEPT,
  ]);
  if (policy.mode !== 'none' && dnsPort !== undefined) {
    const lookup = [...TCP_OR_UDP, equal(DPORT, dnsPort), hasBit(CT_STATE, 'new')];
    rules.push([...lookup, jumpTo(ownName(id, 'lookups'))]);
    rules.push(tooFast(id, LOOKUP_PACKETS, ...TCP_OR_UDP, equal(DPORT, dnsPort)));
    rules.push(take('udp', dnsPort), take('tcp', dnsPort));
  }
  rules.push(connectionsRule(id));
  if (policy.mode !== 'none') {
    // Only redirected ones: the gateway can't know the destination of a direct connection.
    if (gatewayPort !== undefined) {
      const opening = [equal(L4PROTO, 'tcp'), equal(DPORT, gatewayPort), hasBit(CT_STATE, 'new')];
      rules.push(tooFast(id, OPENING_PACKETS, ...opening));
      rules.push(take('tcp', gatewayPort, hasBit(CT_STATUS, 'dnat')));
    }
  }
  for (const { protocol, port } of hostPorts) rules.push(take(protocol, port));
  return [...rules, ...refusal(id, 'undeclared')];
}

/**
 * Packets through the host. Judges every packet, not only the first of a connection, so that an update ends what it no
 * longer allows.
 */
function forwardRules({ lease, policy, decryptsTls }: ChainInput): SandboxRule[] {
  const { id } = lease;
  const drop = dropOf(id);
  const sent = [count(counterOf(id, 'sent')), ACCEPT];
  const rules: SandboxRule[] = [
    drop('metadata', equal(IP_DADDR, `@${METADATA_SET}`)),
    drop('guests', equal(OIFNAME, ANY_TAP)),
    drop('invalid', hasBit(CT_STATE, 'invalid')),
  ];
  if (policy.mode === 'none') return [...rules, ...refusal(id, 'unlisted')];
  rules.push(budgetRule(id), connectionsRule(id));
  for (const match of matches(deniedPackets(policy))) rules.push(...refusal(id, 'denied', match));
  // Precedes the allowed ones: a redirect sees only first packets, and a connection may be older than the policy.
  rules.push(...refusal(id, 'denied', ...TCP_OR_UDP, equal(DPORT, anyOf([DNS_PORT, DNS_TLS_PORT]))));
  if (deniesNames(policy)) rules.push(...refusal(id, 'denied', ...WEB));
  // QUIC hides names: clients must fall back to TLS.
  if (deniesNames(policy) || decryptsTls === true) rules.push(...refusal(id, 'denied', ...QUIC));
  for (const match of matches(allowedPackets(policy))) rules.push([match, ...sent]);
  rules.push(...refusal(id, 'private', equal(IP_DADDR, `@${RESERVED_SET}`)));
  if (policy.mode === 'open') return [...rules, sent];
  const flows = `@${ownName(id, 'flows')}`;
  const flow = { elem: { val: DESTINATION, timeout: FLOW_SECONDS } };
  const keep = { set: { op: 'update', elem: flow, set: flows } };
  rules.push([equal(DESTINATION, `@${ownName(id, 'pins')}`), keep, ...sent]);
  rules.push([hasBit(CT_STATE, 'established'), equal(DESTINATION, flows), keep, ...sent]);
  return [...rules, ...refusal(id, 'unlisted')];
}

/** Packets to the TAP: replies, and those of this process's marked sockets. */
function toRules({ lease }: ChainInput): SandboxRule[] {
  const { id, hostAddress } = lease;
  // The source is this TAP's host side, which no other sender can use: see `outside` in `ruleset.ts`.
  const own = [equal(MARK, HOST_MARK), equal(IP_SADDR, hostAddress), equal(L4PROTO, 'tcp')];
  return [
    [...own, goTo(ownName(id, INTO_CHAIN))],
    dropOf(id)('unasked', notEqual(CT_STATE, anyOf(['established', 'related']))),
    dropOf(id)('unasked', notEqual(CT_ZONE, zoneOf(id))),
    [goTo(ownName(id, INTO_CHAIN))],
  ];
}

function intoRules({ lease, limits = {} }: ChainInput): SandboxRule[] {
  const { id } = lease;
  const received = [count(counterOf(id, 'received')), ACCEPT];
  return [
    ...rateRule(id, limits.downloadBytesPerSecond),
    // A guest is notified of the end of its connections whatever its budget.
    [equal(TCP_FLAGS, anyOf(['rst', { '|': ['rst', 'ack'] }])), equal(PACKET_BYTES, BARE_RESET_BYTES), ...received],
    [equal(L4PROTO, 'icmp'), equal(SOURCE_ROUTE, 'local'), ...received],
    [{ quota: budgetOf(id) }, goTo(ownName(id, 'spent'))],
    received,
  ];
}

const DNS_PORT = 53;
/** DNS over TLS (RFC 7858) and over QUIC (RFC 9250). */
const DNS_TLS_PORT = 853;
const QUIC_PORT = 443;
const TCP_OR_UDP = [equal(L4PROTO, anyOf(['tcp', 'udp']))];
const WEB = [equal(L4PROTO, 'tcp'), equal(DPORT, anyOf(NAME_PORTS))];
const TLS = [equal(L4PROTO, 'tcp'), equal(DPORT, 443)];
const QUIC = [equal(L4PROTO, 'udp'), equal(DPORT, QUIC_PORT)];

function deniesNames(policy: EgressPolicy): boolean {
  return policy.deny.some((rule) => rule.kind === 'name');
}

/**
 * The connection tracking zone of a sandbox, 1 … 65535 (nf_conntrack_zones): a later sandbox with the same address does
 * not meet its connections, except for one in 65,535.
 */
function zoneOf(id: SandboxId): number {
  return 1 + (createHash('sha256').update(id).digest().readUInt32BE(0) % ZONES);
}

const ZONES = 65_535;

function dropOf(id: SandboxId): (counter: CounterName, ...match: NftExpression[]) => SandboxRule {
  return (counter, ...match) => [...match, count(counterOf(id, counter)), DROP];
}

function refusal(id: SandboxId, counter: CounterName, ...match: NftExpression[]): SandboxRule[] {
  const counted = count(counterOf(id, counter));
  return [
    [...match, equal(L4PROTO, 'tcp'), counted, RESET],
    [...match, counted, PROHIBITED],
  ];
}

function rateRule(id: SandboxId, bytesPerSecond: number | undefined): SandboxRule[] {
  if (bytesPerSecond === undefined) return [];
  return [dropOf(id)('rate', beyondRate(bytesPerSecond, BURST_BYTES))];
}

function tooFast(
  id: SandboxId,
  { perSecond, burst }: { readonly perSecond: number; readonly burst: number },
  ...match: NftExpression[]
): SandboxRule {
  return dropOf(id)('rate', ...match, beyondPackets(perSecond, burst));
}

/** After connection tracking, not in `from`: only a tracked connection can be reset. */
function budgetRule(id: SandboxId): SandboxRule {
  return [{ quota: budgetOf(id) }, count(counterOf(id, 'budget')), goTo(REFUSE_CHAIN)];
}

function connectionsRule(id: SandboxId): SandboxRule {
  return [hasBit(CT_STATE, 'new'), jumpTo(ownName(id, 'conns'))];
}

function matches({ everything, byPort }: PacketSet): NftExpression[] {
  const out: NftExpression[] = [];
  if (everything.length > 0) out.push(inRanges(everything));
  const elements = byPort.flatMap(({ addresses, protocol, ports }) =>
    addresses.map((range) => ({ concat: [addressElement(range), protocol, numberElement(ports.first, ports.last)] })),
  );
  if (elements.length > 0) out.push(equal(DESTINATION, anyOf(elements)));
  return out;
}

function inRanges(ranges: readonly AddressRange[]): NftExpression {
  return equal(IP_DADDR, anyOf(ranges.map(addressElement)));
}

function assertInput({ lease, dnsPort, gatewayPort, hostPorts = [], limits = {}, bytesUsed = 0 }: ChainInput): void {
  assert(/^[a-z0-9]{20}$/.test(lease.id), `sandbox id ${lease.id}`);
  assert(/^nv-[a-z0-9]{1,12}$/.test(lease.tap), `TAP name ${lease.tap}`);
  const ports = [dnsPort, gatewayPort, ...hostPorts.map(({ port }) => port)];
  for (const port of ports) {
    assert(port === undefined || (Number.isInteger(port) && port > 0 && port < 65_536), `port ${port}`);
  }
  assert(Number.isSafeInteger(bytesUsed) && bytesUsed >= 0, `bytes used ${bytesUsed}`);
  for (const limit of Object.values(limits)) {
    assert(limit === undefined || (Number.isSafeInteger(limit) && limit > 0), `limit ${limit}`);
  }
}
