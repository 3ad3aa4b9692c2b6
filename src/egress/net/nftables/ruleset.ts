/**
 * The packet filter: one nftables table `inet neurovisor` for all sandboxes, as JSON for `nft -j -f -`. Each function
 * returns one transaction, which the kernel applies whole or not at all, and never names another program's table. Pure.
 *
 *     guest ── TAP ──► prerouting/raw: from_ID ─► conntrack ─► prerouting/dstnat: nat_ID ─┬─► input: input_ID
 *                      MAC, source, IPv6,                      to our resolver, gateway   │
 *                      metadata, rate                                                     └─► forward: forward_ID
 *                                                                                               │ budget, connections,
 *                                                                                               │ policy
 *     guest ◄── TAP ◄── into_ID ◄── postrouting: to_ID ◄── answers, marked connections          ▼
 *                                                                            postrouting/srcnat: masquerade
 *
 * One lookup of the TAP's name leads a packet to the chains of its sandbox. A TAP with our prefix that is in no map may
 * send nothing, so no traffic passes before `addSandbox` and after `removeSandbox`.
 */
import type { SandboxId } from '../../../base/ids.ts';
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
  notEqual,
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

/** An address that our resolver returned to the guest, and a port on which a rule for its name allows it. */
export interface PacketPin {
  readonly address: string;
  readonly protocol: Transport;
  readonly port: number;
  /** Time until it expires. */
  readonly seconds: number;
}

/** Elements in each set of pinned destinations. When a set is full, further destinations are refused. */
export const PINS_MAX = 8192;
/** The quota without a budget: 9 PB. */
const BYTES_MAX = Number.MAX_SAFE_INTEGER;

const COUNTER_UNKNOWN = 'unknown';
/** Packets from the network to our pool, or with a spoofed source address of it. */
const COUNTER_OUTSIDE = 'outside';
const SUBNETS = 'subnets';

/** The hook that leads to each chain of a sandbox; priorities as in netfilter_ipv4.h. */
const HOOKS: Record<SandboxChain, { base: string; type: string; hook: string; prio: number }> = {
  from: { base: 'prerouting', type: 'filter', hook: 'prerouting', prio: FROM_PRIORITY },
  // Before other programs (Docker: -100): only the first translation of a connection counts.
  nat: { base: 'dstnat', type: 'nat', hook: 'prerouting', prio: -101 },
  input: { base: 'input', type: 'filter', hook: 'input', prio: 0 },
  forward: { base: 'forward', type: 'filter', hook: 'forward', prio: 0 },
  to: { base: 'postrouting', type: 'filter', hook: 'postrouting', prio: 0 },
};
const UNMARK = { name: 'unmark', prio: UNMARK_PRIORITY };
const mapName = (chain: SandboxChain): string => `${chain}_taps`;

/** Replaces the whole table. Counters begin at 0. */
export function wholeTable(sandboxes: readonly ChainInput[]): NftObject[] {
  return [...removeTable(), addTable(), ...baseObjects(), ...sandboxes.flatMap((input) => sandboxObjects(input))];
}

/** Adds the table first, since deleting a missing one fails. */
export function removeTable(): NftObject[] {
  return [addTable(), deleteTable()];
}

/** Replaces the sandbox's entries in the table. @throws NetError `policy_too_large` */
export function addSandbox(input: ChainInput): NftObject[] {
  const { id } = input.lease;
  return sandboxObjects(input, [...flushRules(id), ...flushChains(id, KEPT_CHAINS)]);
}

/** @param before commands to run before the rules are added */
function sandboxObjects(input: ChainInput, before: readonly NftObject[] = []): NftObject[] {
  const { lease } = input;
  const { id } = lease;
  return [
    ...ownerObjects(input, input.owner, add),
    ...COUNTER_NAMES.map((name) => add('counter', { name: counterOf(id, name) })),
    budgetObject(input),
    ...SANDBOX_SETS.map((set) =>
      add('set', { name: ownName(id, set), type: DESTINATION_TYPE, flags: ['timeout'], size: PINS_MAX }),
    ),
    ...ALL_CHAINS.map((chain) => add('chain', { name: ownName(id, chain) })),
    ...before,
    ...keptObjects(input, KEPT_CHAINS),
    ...ruleObjects(input),
    ...membership(lease).map(({ name, elem }) => add('element', { name, elem })),
  ];
}

/**
 * Sets policy, ports and limits of a sandbox in the table. Counters stay, and so does the usage of an unchanged budget;
 * a changed one begins with `input.bytesUsed`. Ends connections that the new policy does not allow, and those to
 * pins that are not in `pins`.
 * @param pins all pins valid from now on
 * @param renewed chains whose limits have changed: `renewedChains`
 * @throws NetError `policy_too_large`
 */
export function updateSandbox(
  input: ChainInput,
  pins: readonly PacketPin[],
  renewed: readonly KeptChain[] = [],
): NftObject[] {
  const { id } = input.lease;
  return [
    ...flushRules(id),
    ...flushChains(id, renewed),
    // Bytes refused beyond the old budget must not count against the new one.
    ...(renewed.includes('spent') ? [remove('quota', { name: budgetOf(id) })] : []),
    budgetObject(input),
    ...keptObjects(input, renewed),
    ...ruleObjects(input),
    ...addPins(id, pins),
  ];
}

const RULED_CHAINS = [INTO_CHAIN, ...SANDBOX_CHAINS] as const;
const ALL_CHAINS = [...KEPT_CHAINS, ...RULED_CHAINS] as const;

function flushChains(id: SandboxId, chains: readonly (typeof ALL_CHAINS)[number][]): NftObject[] {
  return chains.map((chain) => flush('chain', ownName(id, chain)));
}

function flushRules(id: SandboxId): NftObject[] {
  return [...flushChains(id, RULED_CHAINS), ...SANDBOX_SETS.map((set) => flush('set', ownName(id, set)))];
}

export function removeSandbox(lease: Pick<AddressLease, 'id' | 'tap' | 'subnet'>, owner?: TableOwner): NftObject[] {
  const { id } = lease;
  return [
    ...membership(lease).map(({ name, elem }) => remove('element', { name, elem })),
    ...flushChains(id, ALL_CHAINS),
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

/** Adds pins, or extends existing ones. */
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
  // Adding an existing element does not change its timeout, at least before Linux 6.13.
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
    ...SANDBOX_CHAINS.map((chain) => add('map', { name: mapName(chain), type: 'ifname', map: 'verdict' })),
    ...SANDBOX_CHAINS.map((chain) => {
      const { base, ...hook } = HOOKS[chain];
      return add('chain', { name: base, ...hook, policy: 'accept' });
    }),
    add('chain', { name: 'srcnat', type: 'nat', hook: 'postrouting', prio: 100, policy: 'accept' }),
    add('chain', { ...UNMARK, type: 'filter', hook: 'prerouting', policy: 'accept' }),
    ...baseRules(),
  ];
}

/** Our base chains accept by default: they see all packets of the host, most of which are not ours. */
function baseRules(): NftObject[] {
  const rule = (chain: string, ...expr: NftExpression[]): NftObject => add('rule', { chain, expr });
  const notLoopback = notEqual(IIFNAME, 'lo');
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
    rule('srcnat', notEqual(OIFNAME, ANY_TAP), equal(IP_SADDR, subnets), { masquerade: null }),
  ];
}

function ruleObjects(input: ChainInput): NftObject[] {
  const rules = sandboxRules(input);
  return RULED_CHAINS.flatMap((chain) =>
    rules[chain].map((expr) => add('rule', { chain: ownName(input.lease.id, chain), expr })),
  );
}

function keptObjects(input: ChainInput, chains: readonly KeptChain[]): NftObject[] {
  const rules = keptRules(input);
  return chains.flatMap((chain) =>
    rules[chain].map((expr) => add('rule', { chain: ownName(input.lease.id, chain), expr })),
  );
}

/** Adding it again keeps its usage. */
function budgetObject({ lease, limits = {}, bytesUsed = 0 }: ChainInput): NftObject {
  const bytes = limits.bytesMax ?? BYTES_MAX;
  return add('quota', { name: budgetOf(lease.id), bytes, used: bytesUsed, inv: true });
}

function membership({
  id,
  tap,
  subnet,
}: Pick<AddressLease, 'id' | 'tap' | 'subnet'>): { name: string; elem: unknown[] }[] {
  return [
    ...SANDBOX_CHAINS.map((chain) => ({ name: mapName(chain), elem: [[tap, jumpTo(ownName(id, chain))]] })),
    { name: SUBNETS, elem: [prefixElement(subnet.base, subnet.prefix)] },
  ];
}

function prefixElement(base: bigint, prefix: number): unknown {
  return { prefix: { addr: formatAddress({ family: 4, value: base }), len: prefix } };
}
