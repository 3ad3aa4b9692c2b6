/**
 * Decides what a sandbox may connect to; packet filter, resolver and gateway all ask here. Pure.
 *
 *     metadata > mode none > deny rules > blocks allowed > private ranges > names allowed > mode open
 *     refused    refused     refused      allowed          refused          allowed         allowed
 *
 * The first that applies decides, so the order of the rules does not matter and deny beats allow.
 */
import {
  type Cidr,
  cidrContains,
  cidrCovers,
  facesOf,
  formatCidr,
  type IpAddress,
  readAddress,
} from '../addresses/addresses.ts';
import { parseHostName } from '../addresses/host-name.ts';
import { metadataOf, metadataOfName, RESERVED, reservedRangeOf } from '../addresses/metadata.ts';

/**
 * `none`: nothing leaves. `allowlist`: what a rule allows, names only through the resolver and gateway. `open`: the
 * public internet, except what a rule denies.
 */
export type EgressMode = 'none' | 'allowlist' | 'open';
export type Transport = 'tcp' | 'udp';

/** 0 … 65535, both ends inclusive. */
export interface PortRange {
  readonly first: number;
  readonly last: number;
}

interface RuleBase {
  /** As written, for messages. */
  readonly text: string;
  /** Undefined for all ports; in a rule that allows a name, for 80 and 443. */
  readonly ports: PortRange | undefined;
  /** Only with ports. Undefined for both, and ICMP if there are no ports; in a rule that allows a name, for TCP. */
  readonly protocol: Transport | undefined;
}

interface BlockRule extends RuleBase {
  readonly kind: 'block';
  readonly block: Cidr;
}

export interface NameRule extends RuleBase {
  readonly kind: 'name';
  /** Canonical, without `*.`. */
  readonly name: string;
  /** True for `*.name`: every name below it, at any depth, but not the name itself. */
  readonly below: boolean;
}

/** Requests to a name by method and path. If a name has such rules, only they open its ports 80 and 443. */
export interface RequestRule extends RuleBase {
  readonly kind: 'request';
  readonly name: string;
  readonly below: boolean;
  readonly scheme: 'https' | 'http';
  /** Case-sensitive, with `WEBSOCKET`; undefined for every allowable method, and no WebSocket. */
  readonly methods: ReadonlySet<string> | undefined;
  /** In the form of `readPath`; includes everything below it. */
  readonly path: string;
}

export type EgressRule = BlockRule | NameRule | RequestRule;

export interface EgressPolicy {
  readonly mode: EgressMode;
  readonly allow: readonly EgressRule[];
  /** Never by method or path: what a list omits must stay closed. */
  readonly deny: readonly EgressRule[];
}

export interface Destination {
  /** In any spelling. */
  readonly address: string;
  readonly port: number;
  readonly protocol: Transport;
  /** The names that the guest used: SNI, `Host`, those pinned to the address. All must be allowed. */
  readonly names: readonly string[];
}

type EgressReason =
  | 'bad_address'
  | 'bad_name'
  | 'metadata'
  | 'mode_none'
  | 'denied'
  | 'private'
  | 'not_listed'
  | 'listed_block'
  | 'listed_name'
  | 'open';

export interface EgressDecision {
  readonly allowed: boolean;
  /** Stable, for counters. */
  readonly reason: EgressReason;
  readonly rule: string | undefined;
  readonly why: string;
}

/** Default ports of a name rule: those on which the gateway can read the name. */
export const NAME_PORTS: readonly number[] = [80, 443];

export function decide(policy: EgressPolicy, destination: Destination): EgressDecision {
  const address = readAddress(destination.address);
  if (address === undefined) {
    return refuse('bad_address', `${JSON.stringify(destination.address)} is not an address`);
  }
  const names: string[] = [];
  for (const text of destination.names) {
    const name = canonicalName(text);
    const metadata = metadataOfName(text);
    if (metadata !== undefined) return refuseMetadata(text, metadata.provider);
    if (name === undefined) return refuse('bad_name', `${JSON.stringify(text)} is not a host name`);
    names.push(name);
  }
  const refused = refusedAddress(policy, address);
  if (refused !== undefined && refused.reason !== 'private') return refused;
  const denied = policy.deny.find((rule) => denies(rule, address, destination, names));
  if (denied !== undefined) return refuse('denied', `the rule ${denied.text} denies it`, denied);
  const block = policy.allow.find(
    (rule) => rule.kind === 'block' && opensAddress(rule, address) && portMatches(rule, destination),
  );
  if (block !== undefined) return allow('listed_block', `the rule ${block.text} allows it`, block);
  const range = reservedRangeOf(address);
  if (range !== undefined) return refusePrivate(formatCidr(range.block), range.name);
  return decideByName(policy, destination, names);
}

function decideByName(policy: EgressPolicy, destination: Destination, names: readonly string[]): EgressDecision {
  if (policy.mode === 'open') return allow('open', 'the policy is open');
  const rules = names.map((name) =>
    rulesFor(policy, name, destination).find((rule) => opensName(rule, name, destination)),
  );
  const first = rules[0];
  if (first !== undefined && !rules.includes(undefined)) {
    return allow('listed_name', `the rule ${first.text} allows it`, first);
  }
  const culprit = names[rules.indexOf(undefined)] ?? destination.address;
  return refuse('not_listed', `no rule allows ${culprit} on port ${destination.port}`);
}

/** Decides whether the resolver may ask for a name. DNS carries data, so a refused name must not leave. */
export function decideName(policy: EgressPolicy, text: string): EgressDecision {
  const metadata = metadataOfName(text);
  if (metadata !== undefined) return refuseMetadata(text, metadata.provider);
  const name = canonicalName(text);
  if (name === undefined) return refuse('bad_name', `${JSON.stringify(text)} is not a host name`);
  if (policy.mode === 'none') return refuse('mode_none', 'the sandbox has no network');
  const denied = policy.deny.find(
    (rule) => rule.kind === 'name' && rule.ports === undefined && nameMatches(rule, name),
  );
  if (denied !== undefined) return refuse('denied', `the rule ${denied.text} denies it`, denied);
  if (policy.mode === 'open') return allow('open', 'the policy is open');
  const rule = policy.allow.find((r) => r.kind !== 'block' && nameMatches(r, name));
  if (rule !== undefined) return allow('listed_name', `the rule ${rule.text} allows it`, rule);
  return refuse('not_listed', `no rule allows the name ${name}`);
}

/** Decides whether an answer may contain an address: not if no connection to it is allowed (rebinding). */
export function decideAnswer(policy: EgressPolicy, text: string): EgressDecision {
  const address = readAddress(text);
  if (address === undefined) return refuse('bad_address', `${JSON.stringify(text)} is not an address`);
  return refusedAddress(policy, address) ?? allow('open', 'no rule denies the address');
}

/** True if any decision depends on a name, so that the guest's HTTP, TLS and DNS must pass through us. */
export function decidesByName(policy: EgressPolicy): boolean {
  if (policy.mode === 'none') return false;
  return policy.mode === 'allowlist' || policy.deny.some((rule) => rule.kind === 'name');
}

/** Ports, other than the gateway's, that a rule opens on the addresses pinned to a name. */
export function pinnedPorts(
  policy: EgressPolicy,
  text: string,
): readonly { readonly protocol: Transport; readonly port: number }[] {
  const name = canonicalName(text);
  if (name === undefined || policy.mode !== 'allowlist') return [];
  const found = new Map<string, { protocol: Transport; port: number }>();
  const isJudged = requestRulesFor(policy, name).length > 0;
  for (const rule of policy.allow) {
    if (rule.kind !== 'name' || rule.ports === undefined || !nameMatches(rule, name)) continue;
    const protocol = rule.protocol ?? 'tcp';
    for (let port = rule.ports.first; port <= rule.ports.last; port += 1) {
      const atGateway = (protocol === 'tcp' || isJudged) && NAME_PORTS.includes(port);
      if (!atGateway) found.set(`${protocol}:${port}`, { protocol, port });
    }
  }
  return [...found.values()];
}

/**
 * True if a block opens a private range, so only if it lies inside one. `10.1.0.0/16` does; `0.0.0.0/0` means the
 * internet.
 */
export function opensPrivate(block: Cidr): boolean {
  return RESERVED.some((range) => cidrCovers(range.block, block));
}

/** The rules that open a private range beyond these blocks. */
export function privateRules({ allow }: EgressPolicy, blocks: readonly Cidr[]): readonly EgressRule[] {
  return allow.filter(
    (rule) =>
      rule.kind === 'block' && opensPrivate(rule.block) && !blocks.some((block) => cidrCovers(block, rule.block)),
  );
}

function refusedAddress(policy: EgressPolicy, address: IpAddress): EgressDecision | undefined {
  const metadata = metadataOf(address);
  if (metadata !== undefined) return refuseMetadata('the address', metadata.provider);
  if (policy.mode === 'none') return refuse('mode_none', 'the sandbox has no network');
  const denied = policy.deny.find((rule) => rule.kind === 'block' && everyPort(rule) && shutsAddress(rule, address));
  if (denied !== undefined) return refuse('denied', `the rule ${denied.text} denies it`, denied);
  const range = reservedRangeOf(address);
  if (range === undefined) return undefined;
  const opened = policy.allow.some((rule) => rule.kind === 'block' && opensAddress(rule, address));
  return opened ? undefined : refusePrivate(formatCidr(range.block), range.name);
}

/** A denied name is denied on every port, unless the rule has ports. */
function denies(rule: EgressRule, address: IpAddress, destination: Destination, names: readonly string[]): boolean {
  const target = rule.kind === 'block' ? shutsAddress(rule, address) : names.some((name) => nameMatches(rule, name));
  return target && portMatches(rule, destination);
}

/** To deny, one address that this one may stand for is enough. */
function shutsAddress(rule: BlockRule, address: IpAddress): boolean {
  return facesOf(address).some((face) => cidrContains(rule.block, face));
}

/** To allow, the address itself must be in the block, and a private one in a private block. */
function opensAddress(rule: BlockRule, address: IpAddress): boolean {
  const [own] = facesOf(address);
  if (own === undefined || !cidrContains(rule.block, own)) return false;
  return reservedRangeOf(address) === undefined || opensPrivate(rule.block);
}

export function requestRulesFor({ allow }: EgressPolicy, name: string): RequestRule[] {
  return allow.filter((rule) => rule.kind === 'request').filter((rule) => nameMatches(rule, name));
}

/** If a name has request rules, rules that open the whole name, or all names above it, do not count. */
function rulesFor(policy: EgressPolicy, name: string, { port }: Destination): readonly (NameRule | RequestRule)[] {
  const requests = requestRulesFor(policy, name);
  // On UDP too: HTTP/3 would carry the same requests unreadably.
  const isJudged = requests.length > 0 && NAME_PORTS.includes(port);
  return isJudged ? requests : policy.allow.filter((rule) => rule.kind === 'name');
}

function opensName(rule: NameRule | RequestRule, name: string, destination: Destination): boolean {
  if (!nameMatches(rule, name)) return false;
  if (rule.ports !== undefined) {
    return portMatches({ ...rule, protocol: rule.protocol ?? 'tcp' }, destination);
  }
  return destination.protocol === 'tcp' && NAME_PORTS.includes(destination.port);
}

function nameMatches(rule: NameRule | RequestRule, name: string): boolean {
  return rule.below ? name.endsWith(`.${rule.name}`) : name === rule.name;
}

function portMatches(rule: EgressRule, { port, protocol }: Destination): boolean {
  if (rule.protocol !== undefined && rule.protocol !== protocol) return false;
  return rule.ports === undefined || (port >= rule.ports.first && port <= rule.ports.last);
}

function everyPort(rule: EgressRule): boolean {
  return rule.ports === undefined;
}

/** Accepts one trailing dot, for the root. */
function canonicalName(text: string): string | undefined {
  return parseHostName(text.replace(/\.$/, ''));
}

function allow(reason: EgressReason, why: string, rule?: EgressRule): EgressDecision {
  return { allowed: true, reason, rule: rule?.text, why };
}

function refuse(reason: EgressReason, why: string, rule?: EgressRule): EgressDecision {
  return { allowed: false, reason, rule: rule?.text, why };
}

function refuseMetadata(what: string, provider: string): EgressDecision {
  return refuse('metadata', `${what} belongs to a metadata service (${provider}), which no rule can allow`);
}

function refusePrivate(block: string, name: string): EgressDecision {
  return refuse('private', `${block} (${name}) is not the internet; allow a block inside it`);
}
