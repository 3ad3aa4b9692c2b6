/**
 * The packet filter: one nftables table `inet neurovisor` for all sandboxes, as JSON for `nft -j -f -`.
 * Each function gives one transaction, which the kernel applies whole or not at all. Other programs' tables
 * are never named. Pure.
 *
 *     guest ── TAP ──► prerouting/raw: from_ID ─► conntrack ─► prerouting/dstnat: nat_ID ─┬─► input: input_ID
 *                      MAC, source, IPv6,                      to our resolver, gateway   │
 *                      metadata, rate                                                     └─► forward: forward_ID
 *                                                                                               │ budget, connections,
 *                                                                                               │ policy
 *     guest ◄── TAP ◄── into_ID ◄── postrouting: to_ID ◄── answers, marked connections          ▼
 *                                                                            postrouting/srcnat: masquerade
 *
 * A packet finds the chains of its sandbox by one lookup of its TAP's name. A TAP with our prefix that is in
 * no map may send nothing: between its making and `addSandbox`, and after `removeSandbox`, it is dead.
 */
import type { SandboxId } from '../../base/ids.ts';
import type { AddressLease } from '../addresses/address-plan.ts';
import { cidrsOf, formatAddress, mergeRanges, rangeOf } from '../addresses/addresses.ts';
import { METADATA_BLOCKS } from '../addresses/metadata.ts';
import { reservedIpv4 } from '../policy/packet-sets.ts';
import type { Transport } from '../policy/policy.ts';
import {
  add,
  addressElement,
  addTable,
  assign,
  count,
  DESTINATION_TYPE,
  DROP,
  deleteTable,
  different,
  dispatch,
  equal,
  flush,
  IIFNAME,
  IP_DADDR,
  IP_SADDR,
  jumpTo,
  MARK,
  type NftExpression,
  type NftObject,
  OIFNAME,
  remove,
} from './json.ts';
import {
  ANY_TAP,
  type ChainInput,
  FROM_PRIORITY,
  INTO_CHAIN,
  KEPT_CHAINS,
  type KeptChain,
  keptRules,
  METADATA_SET,
  ownName,
  REFUSE_CHAIN,
  REFUSE_RULES,
  RESERVED_SET,
  SANDBOX_CHAINS,
  SANDBOX_SETS,
  type SandboxChain,
  sandboxRules,
  UNMARK_PRIORITY,
} from './sandbox-chains.ts';
import { budgetOf, COUNTER_NAMES, counterOf } from './sandbox-counters.ts';
import { LAYOUT_COUNTER, ownerCounter, type TableOwner } from './table-owners.ts';

/** An address that our resolver gave the guest, and a port on which a rule for its name allows it. */
export interface PacketPin {
  readonly address: string;
  readonly protocol: Transport;
  readonly port: number;
  /** From now. */
  readonly seconds: number;
}

/** Elements of the sets of pinned destinations, each. A full set takes no more, and the connection is refused. */
export const PINS_MAX = 8192;
/** What a budget is where there is none: 9 PB. */
const BYTES_MAX = Number.MAX_SAFE_INTEGER;

/** Packets of TAPs that no sandbox has. */
const COUNTER_UNKNOWN = 'unknown';
/** Packets of the network that are addressed to, or pretend to be from, our pool. */
const COUNTER_OUTSIDE = 'outside';
const SUBNETS = 'subnets';

/** Where each chain of a sandbox is reached from; numbers are priorities of netfilter_ipv4.h. */
const HOOKS: Record<SandboxChain, { base: string; type: string; hook: string; prio: number }> = {
  from: { base: 'prerouting', type: 'filter', hook: 'prerouting', prio: FROM_PRIORITY },
  // Before other programs' (Docker's is -100): the first that translates a connection is the only one.
  nat: { base: 'dstnat', type: 'nat', hook: 'prerouting', prio: -101 },
  input: { base: 'input', type: 'filter', hook: 'input', prio: 0 },
  forward: { base: 'forward', type: 'filter', hook: 'forward', prio: 0 },
  to: { base: 'postrouting', type: 'filter', hook: 'postrouting', prio: 0 },
};
const UNMARK = { name: 'unmark', prio: UNMARK_PRIORITY };
const mapName = (chain: SandboxChain): string => `${chain}_taps`;

/** The whole table, in place of whatever was there under its name. Counters begin at 0. */
export function wholeTable(networks: readonly ChainInput[]): NftObject[] {
  return [
    ...removeTable(),
    addTable(),
    ...baseObjects(),
    ...networks.flatMap((network) => sandboxObjects(network)),
  ];
}

/** Also where there is none: it is made first, since deleting what isn't there fails. */
export function removeTable(): NftObject[] {
  return [addTable(), deleteTable()];
}

/**
 * In place of what is there under its id.
 * @throws NetError `policy_too_large`
 */
export function addSandbox(network: ChainInput): NftObject[] {
  const { id } = network.lease;
  return sandboxObjects(network, [...emptied(id), ...flushed(id, KEPT_CHAINS)]);
}

/** @param before the rules */
function sandboxObjects(network: ChainInput, before: readonly NftObject[] = []): NftObject[] {
  const { lease } = network;
  const { id } = lease;
  return [
    ...ownerObjects(network, network.owner, add),
    ...COUNTER_NAMES.map((name) => add('counter', { name: counterOf(id, name) })),
    budgetObject(network),
    ...SANDBOX_SETS.map((set) =>
      add('set', {
        name: ownName(id, set),
        type: DESTINATION_TYPE,
        flags: ['timeout'],
        size: PINS_MAX,
      }),
    ),
    ...ALL_CHAINS.map((chain) => add('chain', { name: ownName(id, chain) })),
    ...before,
    ...keptObjects(network, KEPT_CHAINS),
    ...ruleObjects(network),
    ...membership(lease).map(({ name, elem }) => add('element', { name, elem })),
  ];
}

/**
 * New policy, ports and limits for a sandbox that is in the table with the same lease. Counters stay, and what
 * is used of a budget that does not change; another begins with `network.bytesUsed`. Connections that the new policy does not allow end, those of pins not among
 * `pins` included.
 * @param pins all that are to be valid afterwards
 * @param renewed whose limits are others now: `renewedChains`
 * @throws NetError `policy_too_large`
 */
export function updateSandbox(
  network: ChainInput,
  pins: readonly PacketPin[],
  renewed: readonly KeptChain[] = [],
): NftObject[] {
  const { id } = network.lease;
  return [
    ...emptied(id),
    ...flushed(id, renewed),
    // What was refused beyond the old budget is no part of the new one.
    ...(renewed.includes('spent') ? [remove('quota', { name: budgetOf(id) })] : []),
    budgetObject(network),
    ...keptObjects(network, renewed),
    ...ruleObjects(network),
    ...addPins(id, pins),
  ];
}

/** Which an update writes anew. */
const RULED_CHAINS = [INTO_CHAIN, ...SANDBOX_CHAINS] as const;
const ALL_CHAINS = [...KEPT_CHAINS, ...RULED_CHAINS] as const;

function flushed(id: SandboxId, chains: readonly (typeof ALL_CHAINS)[number][]): NftObject[] {
  return chains.map((chain) => flush('chain', ownName(id, chain)));
}

function emptied(id: SandboxId): NftObject[] {
  return [
    ...flushed(id, RULED_CHAINS),
    ...SANDBOX_SETS.map((set) => flush('set', ownName(id, set))),
  ];
}

/** @param owner with which it was added */
export function removeSandbox(
  lease: Pick<AddressLease, 'id' | 'tap' | 'subnet'>,
  owner?: TableOwner,
): NftObject[] {
  const { id } = lease;
  return [
    ...membership(lease).map(({ name, elem }) => remove('element', { name, elem })),
    ...flushed(id, ALL_CHAINS),
    ...ALL_CHAINS.map((chain) => remove('chain', { name: ownName(id, chain) })),
    ...SANDBOX_SETS.map((set) => remove('set', { name: ownName(id, set) })),
    ...COUNTER_NAMES.map((name) => remove('counter', { name: counterOf(id, name) })),
    remove('quota', { name: budgetOf(id) }),
    ...ownerObjects({ lease }, owner, remove),
  ];
}

function ownerObjects(
  { lease }: { readonly lease: Pick<AddressLease, 'id' | 'tap' | 'subnet'> },
  owner: TableOwner | undefined,
  verb: typeof add,
): NftObject[] {
  return owner === undefined ? [] : [verb('counter', { name: ownerCounter(lease, owner) })];
}

/** Adds pins, or moves the end of those that are there. */
export function addPins(id: SandboxId, pins: readonly PacketPin[]): NftObject[] {
  if (pins.length === 0) return [];
  const name = ownName(id, 'pins');
  const latest = new Map<string, { concat: unknown[]; seconds: number }>();
  for (const { address, protocol, port, seconds } of pins) {
    const concat = [address, protocol, port];
    latest.set(concat.join(' '), { concat, seconds });
  }
  const plain = [...latest.values()].map(({ concat }) => ({ concat }));
  const timed = [...latest.values()].map(({ concat, seconds }) => ({
    elem: { val: { concat }, timeout: Math.max(1, Math.ceil(seconds)) },
  }));
  // An element that is there keeps its end when it is added again, before Linux 6.13 at least.
  return [
    add('element', { name, elem: plain }),
    remove('element', { name, elem: plain }),
    add('element', { name, elem: timed }),
  ];
}

function baseObjects(): NftObject[] {
  const metadata = mergeRanges(METADATA_BLOCKS.map(rangeOf)).filter(({ family }) => family === 4);
  return [
    add('counter', { name: LAYOUT_COUNTER }),
    add('counter', { name: COUNTER_UNKNOWN }),
    add('counter', { name: COUNTER_OUTSIDE }),
    add('set', {
      name: METADATA_SET,
      type: 'ipv4_addr',
      flags: ['interval'],
      elem: metadata.flatMap(cidrsOf).map(({ base, prefix }) => prefixElement(base, prefix)),
    }),
    add('set', {
      name: RESERVED_SET,
      type: 'ipv4_addr',
      flags: ['interval'],
      elem: reservedIpv4().map(addressElement),
    }),
    add('chain', { name: REFUSE_CHAIN }),
    ...REFUSE_RULES.map((expr) => add('rule', { chain: REFUSE_CHAIN, expr })),
    add('set', { name: SUBNETS, type: 'ipv4_addr', flags: ['interval'] }),
    ...SANDBOX_CHAINS.map((chain) =>
      add('map', { name: mapName(chain), type: 'ifname', map: 'verdict' }),
    ),
    ...SANDBOX_CHAINS.map((chain) => {
      const { base, ...hook } = HOOKS[chain];
      return add('chain', { name: base, ...hook, policy: 'accept' });
    }),
    add('chain', { name: 'srcnat', type: 'nat', hook: 'postrouting', prio: 100, policy: 'accept' }),
    add('chain', { ...UNMARK, type: 'filter', hook: 'prerouting', policy: 'accept' }),
    ...baseRules(),
  ];
}

/** The policy of our base chains is accept: they see the whole host's packets, most of which are not ours. */
function baseRules(): NftObject[] {
  const rule = (chain: string, ...expr: NftExpression[]): NftObject => add('rule', { chain, expr });
  const notLoopback = different(IIFNAME, 'lo');
  const unknown = [count(COUNTER_UNKNOWN), DROP];
  const outside = [count(COUNTER_OUTSIDE), DROP];
  const subnets = `@${SUBNETS}`;
  const at = (chain: SandboxChain): string => HOOKS[chain].base;
  return [
    rule(at('from'), dispatch(IIFNAME, mapName('from'))),
    rule(at('from'), equal(IIFNAME, ANY_TAP), ...unknown),
    rule(at('from'), notLoopback, equal(IP_DADDR, subnets), ...outside),
    rule(at('from'), notLoopback, equal(IP_SADDR, subnets), ...outside),
    rule(UNMARK.name, equal(IIFNAME, ANY_TAP), assign(MARK, 0)),
    rule(at('nat'), dispatch(IIFNAME, mapName('nat'))),
    rule(at('input'), dispatch(IIFNAME, mapName('input'))),
    rule(at('input'), equal(IIFNAME, ANY_TAP), ...unknown),
    rule(at('forward'), dispatch(IIFNAME, mapName('forward'))),
    rule(at('forward'), equal(IIFNAME, ANY_TAP), ...unknown),
    rule(at('to'), dispatch(OIFNAME, mapName('to'))),
    rule(at('to'), equal(OIFNAME, ANY_TAP), ...unknown),
    rule('srcnat', different(OIFNAME, ANY_TAP), equal(IP_SADDR, subnets), { masquerade: null }),
  ];
}

function ruleObjects(network: ChainInput): NftObject[] {
  const rules = sandboxRules(network);
  return RULED_CHAINS.flatMap((chain) =>
    rules[chain].map((expr) => add('rule', { chain: ownName(network.lease.id, chain), expr })),
  );
}

function keptObjects(network: ChainInput, chains: readonly KeptChain[]): NftObject[] {
  const rules = keptRules(network);
  return chains.flatMap((chain) =>
    rules[chain].map((expr) => add('rule', { chain: ownName(network.lease.id, chain), expr })),
  );
}

/** Adding it again keeps what is used. */
function budgetObject({ lease, limits = {}, bytesUsed = 0 }: ChainInput): NftObject {
  const bytes = limits.bytesMax ?? BYTES_MAX;
  return add('quota', { name: budgetOf(lease.id), bytes, used: bytesUsed, inv: true });
}

/** What makes packets find the chains of this sandbox. */
function membership({ id, tap, subnet }: Pick<AddressLease, 'id' | 'tap' | 'subnet'>): {
  name: string;
  elem: unknown[];
}[] {
  return [
    ...SANDBOX_CHAINS.map((chain) => ({
      name: mapName(chain),
      elem: [[tap, jumpTo(ownName(id, chain))]],
    })),
    { name: SUBNETS, elem: [prefixElement(subnet.base, subnet.prefix)] },
  ];
}

function prefixElement(base: bigint, prefix: number): unknown {
  return { prefix: { addr: formatAddress({ family: 4, value: base }), len: prefix } };
}
