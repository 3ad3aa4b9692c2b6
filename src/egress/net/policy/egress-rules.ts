/**
 * Parses the text of egress rules into an `EgressPolicy`. Pure.
 *
 *     rule   = (block / name) [ ":" port [ "-" port ] [ "/" ("tcp" / "udp") ] ]
 *     block  = 192.0.2.7 / 192.0.2.0/24 / 2001:db8::/32 / "[" IPv6 block "]"    (brackets before a port)
 *     name   = example.com / *.example.com
 *
 * A block of IPv6 can only be denied, which has no effect but lets lists for both families work. For rules by method
 * and path see `request-rule.ts`.
 */
import { EGRESS_LIMITS } from '../../../base/request/egress-limits.ts';
import { type Cidr, parseCidr, readAddress } from '../addresses/addresses.ts';
import { parseHostName } from '../addresses/host-name.ts';
import { isMetadataBlock, metadataOfName } from '../addresses/metadata.ts';
import { NetError } from '../errors.ts';
import {
  type EgressMode,
  type EgressPolicy,
  type EgressRule,
  NAME_PORTS,
  type PortRange,
  type RequestRule,
  type Transport,
} from './policy.ts';
import { isRequestRule, parseRequestRule } from './request-rule.ts';

const { rulesMax: RULES_MAX, ruleCharactersMax: RULE_CHARACTERS_MAX } = EGRESS_LIMITS;
/** Limit of ports of one rule for a name: each pinned address needs an element in the packet filter per port. */
const NAME_RULE_PORTS_MAX = 64;
const PORT_MAX = 65_535;

const MODES: readonly EgressMode[] = ['none', 'allowlist', 'open'];

/** The default: no traffic leaves. */
export const POLICY_NONE: EgressPolicy = { mode: 'none', allow: [], deny: [] };

export interface EgressPolicyText {
  readonly mode: string;
  readonly allow?: readonly string[];
  readonly deny?: readonly string[];
}

/** @throws NetError `policy_invalid`, `policy_too_large` */
export function parsePolicy({ mode, allow = [], deny = [] }: EgressPolicyText): EgressPolicy {
  const known = MODES.find((name) => name === mode);
  if (known === undefined) {
    throw new NetError('policy_invalid', `egress mode ${quote(mode)} is not known`, {
      remedy: `Choose one of ${MODES.join(', ')}.`,
    });
  }
  if (known === 'none' && allow.length > 0) {
    throw new NetError('policy_invalid', `egress mode none has ${allow.length} allow rules`, {
      remedy: 'Choose the mode allowlist, or omit the rules.',
    });
  }
  assertCount(allow);
  assertCount(deny);
  return {
    mode: known,
    allow: assertRequests(
      known,
      allow.map((text) => assertCanAllow(parseRule(text))),
    ),
    deny: deny.map((text) => assertCanDeny(parseRule(text))),
  };
}

/**
 * Refuses limits by name in mode open, in which a guest can hide names from the gateway that counts.
 * @throws NetError `policy_invalid`
 */
export function assertLimitable(policy: EgressPolicy, isLimitedByName: boolean): EgressPolicy {
  if (policy.mode !== 'open' || !isLimitedByName) return policy;
  throw new NetError('policy_invalid', 'limits by name need the mode allowlist', {
    remedy: 'Choose the mode allowlist, or limit all bytes together.',
  });
}

/** @throws NetError `policy_invalid` */
export function parseRule(text: string): EgressRule {
  if (text.length > RULE_CHARACTERS_MAX) throw invalid(text.slice(0, 40), 'is too long');
  if (isRequestRule(text)) return parseRequestRule(text);
  const { target, portText } = splitPort(text);
  const { ports, protocol } = parsePorts(text, portText);
  const below = target.startsWith('*.');
  const plain = below ? target.slice(2) : target;
  const name = parseHostName(plain.replace(/\.$/, ''));
  if (name !== undefined) {
    if (ports !== undefined && ports.last - ports.first >= NAME_RULE_PORTS_MAX) {
      throw invalid(text, `has more than ${NAME_RULE_PORTS_MAX} ports for a name`);
    }
    return { kind: 'name', text, name, below, ports, protocol };
  }
  if (plain.includes('*')) {
    throw new NetError('policy_invalid', `egress rule ${quote(text)} has a wildcard in it`, {
      remedy: 'Write *.example.com for all names below example.com, or choose the mode open to allow everything.',
    });
  }
  return { kind: 'block', text, block: parseBlock(text, target), ports, protocol };
}

/** Refuses rules that could never have an effect. */
function assertCanAllow(rule: EgressRule): EgressRule {
  if (rule.kind === 'block' && rule.block.family === 6) {
    throw new NetError('policy_invalid', `egress rule ${quote(rule.text)} is IPv6`, {
      remedy: 'Write an IPv4 block or a host name: a sandbox has no IPv6.',
    });
  }
  const never = rule.kind === 'block' ? isMetadataBlock(rule.block) : metadataOfName(rule.name) !== undefined;
  if (!never) return rule;
  throw new NetError('policy_invalid', `egress rule ${quote(rule.text)} names a metadata service`, {
    remedy: 'Omit it: metadata services cannot be allowed. Give the sandbox what it needs as files or variables.',
  });
}

/** Requests can't be denied: a server may read a path differently, and then accept what the rule means to stop. */
function assertCanDeny(rule: EgressRule): EgressRule {
  if (rule.kind !== 'request') return rule;
  throw new NetError('policy_invalid', `egress rule ${quote(rule.text)} denies by method or path`, {
    remedy: 'Allow the wanted methods and paths instead; all others of that name are then refused.',
  });
}

/** Refuses request rules that could have no effect. */
function assertRequests(mode: EgressMode, allow: readonly EgressRule[]): readonly EgressRule[] {
  const requests = allow.filter((rule) => rule.kind === 'request');
  const [first] = requests;
  if (first !== undefined && mode === 'open') {
    throw new NetError('policy_invalid', `egress rule ${quote(first.text)} needs the mode allowlist`, {
      remedy: 'Choose the mode allowlist: in the mode open, the host is reachable without the rule.',
    });
  }
  for (const rule of requests) assertNotWhole(rule, allow);
  return allow;
}

/** Refuses a second rule that opens the whole name; a `*.` rule above it is fine. */
function assertNotWhole(request: RequestRule, allow: readonly EgressRule[]): void {
  const whole = allow.find(
    (rule) =>
      rule.kind === 'name' &&
      rule.name === request.name &&
      rule.below === request.below &&
      NAME_PORTS.some((port) => {
        const { first, last } = rule.ports ?? { first: port, last: port };
        return first <= port && port <= last;
      }),
  );
  if (whole === undefined) return;
  const both = `egress rules ${quote(whole.text)} and ${quote(request.text)}`;
  throw new NetError('policy_invalid', `${both} overlap: one opens all of the host, the other a part`, {
    remedy: 'Omit one of them; for every path, end a URL with /.',
  });
}

/** Splits `[v6]:port`, `target:port`, or a target alone; an IPv6 block itself contains colons. */
function splitPort(text: string): { target: string; portText: string | undefined } {
  const bracketed = /^\[([^\]]*)\](?::(.*))?$/s.exec(text);
  if (bracketed !== null) return { target: bracketed[1] ?? '', portText: bracketed[2] };
  const colon = text.indexOf(':');
  if (colon < 0 || text.includes(':', colon + 1)) return { target: text, portText: undefined };
  return { target: text.slice(0, colon), portText: text.slice(colon + 1) };
}

function parsePorts(
  text: string,
  portText: string | undefined,
): { ports: PortRange | undefined; protocol: Transport | undefined } {
  if (portText === undefined) return { ports: undefined, protocol: undefined };
  const match = /^(\d{1,5})(?:-(\d{1,5}))?(?:\/(tcp|udp))?$/.exec(portText);
  const first = Number(match?.[1] ?? Number.NaN);
  const last = Number(match?.[2] ?? first);
  if (!(first >= 1 && first <= last && last <= PORT_MAX)) {
    throw invalid(text, `has no port or range of ports from 1 to ${PORT_MAX}`);
  }
  return { ports: { first, last }, protocol: match?.[3] as Transport | undefined };
}

function parseBlock(text: string, target: string): Cidr {
  const reading = parseCidr(target);
  if (reading.ok) return reading.cidr;
  const [address = ''] = target.split('/');
  const looksLikeOne = readAddress(address) !== undefined || target.includes('/');
  throw invalid(text, looksLikeOne ? reading.reason : 'is not an address, block or host name');
}

function assertCount(rules: readonly string[]): void {
  if (rules.length > RULES_MAX) throw tooLarge(`${rules.length} rules`);
}

function tooLarge(what: string): NetError {
  return new NetError('policy_too_large', `egress policy has ${what}`, {
    remedy: `Use at most ${RULES_MAX} rules to allow and ${RULES_MAX} to deny, or larger blocks.`,
  });
}

function invalid(text: string, why: string): NetError {
  return new NetError('policy_invalid', `egress rule ${quote(text)} ${why}`, {
    remedy:
      'Write an address, a block, a name or *.name, optionally with a port: 192.0.2.0/24:443, *.example.com, 192.0.2.53:53/udp; or methods and a URL: GET,HEAD https://api.example.com/v1/.',
  });
}

function quote(text: string): string {
  return JSON.stringify(text);
}
