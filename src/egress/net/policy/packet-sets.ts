/**
 * Turns rules for blocks into sets for the packet filter. The kernel requires that elements do not overlap. IPv4 only,
 * as guests have no IPv6. Pure.
 */
import { type AddressRange, mergeRanges, rangeOf, subtractRanges } from '../addresses/addresses.ts';
import { RESERVED } from '../addresses/metadata.ts';
import { NetError } from '../errors.ts';
import { type EgressPolicy, type EgressRule, opensPrivate, type PortRange, type Transport } from './policy.ts';

interface PortSet {
  readonly addresses: readonly AddressRange[];
  readonly protocol: Transport;
  readonly ports: PortRange;
}

export interface PacketSet {
  readonly everything: readonly AddressRange[];
  /** Disjoint, and disjoint from `everything`. */
  readonly byPort: readonly PortSet[];
}

/** Limit of elements of one set by port: hostile combinations of 256 rules could make 100,000. */
const PORT_ELEMENTS_MAX = 8192;

const RESERVED_IPV4: readonly AddressRange[] = mergeRanges(
  RESERVED.map(({ block }) => rangeOf(block)).filter(({ family }) => family === 4),
);

export function reservedIpv4(): readonly AddressRange[] {
  return RESERVED_IPV4;
}

/** @throws NetError `policy_too_large` */
export function deniedPackets(policy: EgressPolicy): PacketSet {
  return packetSet(policy.deny, (_rule, range) => [range]);
}

/** A block around a private range opens only its public part. @throws NetError `policy_too_large` */
export function allowedPackets(policy: EgressPolicy): PacketSet {
  return packetSet(policy.allow, (rule, range) =>
    rule.kind === 'block' && opensPrivate(rule.block) ? [range] : subtractRanges([range], RESERVED_IPV4),
  );
}

function packetSet(
  rules: readonly EgressRule[],
  narrow: (rule: EgressRule, range: AddressRange) => readonly AddressRange[],
): PacketSet {
  const all: AddressRange[] = [];
  const some: { ranges: readonly AddressRange[]; ports: PortRange; protocol: Transport }[] = [];
  for (const rule of rules) {
    if (rule.kind !== 'block' || rule.block.family !== 4) continue;
    const ranges = narrow(rule, rangeOf(rule.block));
    if (rule.ports === undefined) {
      all.push(...ranges);
      continue;
    }
    const protocols = rule.protocol === undefined ? TRANSPORTS : [rule.protocol];
    for (const protocol of protocols) some.push({ ranges, ports: rule.ports, protocol });
  }
  const everything = mergeRanges(all);
  const byPort = TRANSPORTS.flatMap((protocol) =>
    splitByPort(
      some.filter((entry) => entry.protocol === protocol),
      everything,
    ).map(({ addresses, ports }): PortSet => ({ addresses, ports, protocol })),
  );
  const elements = byPort.reduce((sum, { addresses }) => sum + addresses.length, 0);
  if (elements > PORT_ELEMENTS_MAX) {
    throw new NetError('policy_too_large', `egress rules with ports make ${elements} combinations`, {
      remedy: `Use fewer distinct port ranges: at most ${PORT_ELEMENTS_MAX} combinations fit.`,
    });
  }
  return { everything, byPort };
}

const TRANSPORTS: readonly Transport[] = ['tcp', 'udp'];

/** Splits the ports wherever a range begins or ends, so that each part has one set of addresses. */
function splitByPort(
  entries: readonly { ranges: readonly AddressRange[]; ports: PortRange }[],
  elsewhere: readonly AddressRange[],
): { addresses: readonly AddressRange[]; ports: PortRange }[] {
  const cuts = [...new Set(entries.flatMap(({ ports }) => [ports.first, ports.last + 1]))];
  cuts.sort((a, b) => a - b);
  const out: { addresses: readonly AddressRange[]; ports: PortRange }[] = [];
  for (const [i, first] of cuts.entries()) {
    const end = cuts[i + 1];
    if (end === undefined) continue;
    const covering = entries.filter(({ ports }) => ports.first <= first && first <= ports.last);
    const addresses = subtractRanges(
      covering.flatMap(({ ranges }) => ranges),
      elsewhere,
    );
    if (addresses.length > 0) out.push({ addresses, ports: { first, last: end - 1 } });
  }
  return out;
}
