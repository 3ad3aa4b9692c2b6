import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatAddress, rangeOf } from '../addresses/addresses.ts';
import { metadataOf } from '../addresses/metadata.ts';
import { parsePolicy, parseRule } from './egress-rules.ts';
import { allowedPackets, deniedPackets, type PacketSet, reservedIpv4 } from './packet-sets.ts';
import { decide, type EgressPolicy } from './policy.ts';

const block = fc.oneof(
  fc.constantFrom('0.0.0.0/0', '8.0.0.0/8', '8.8.8.0/24', '8.8.8.8', '10.0.0.0/8', '10.1.0.0/16'),
  fc.constantFrom('9.9.9.9', '8.8.8.128/25', '168.63.0.0/16', '100.64.0.0/10'),
);
const rule = fc
  .tuple(block, fc.option(fc.tuple(fc.nat({ max: 8 }), fc.nat({ max: 8 }))), fc.constantFrom('', '/tcp', '/udp'))
  .map(([text, ports, protocol]) => {
    if (ports === null) return parseRule(text);
    const [a, b] = ports;
    return parseRule(`${text}:${Math.min(a, b) + 1}-${Math.max(a, b) + 1}${protocol}`);
  });
const rules = fc.array(rule, { maxLength: 8 });

function holds(set: PacketSet, value: bigint, port: number, protocol: string): number {
  const inside = (range: { first: bigint; last: bigint }): boolean => range.first <= value && value <= range.last;
  const byPort = set.byPort.filter(
    (entry) =>
      entry.protocol === protocol &&
      entry.ports.first <= port &&
      port <= entry.ports.last &&
      entry.addresses.some(inside),
  );
  return byPort.length + set.everything.filter(inside).length;
}

describe('packet sets properties', () => {
  it('agree with the policy, and no packet is in two elements', () => {
    const value = fc.oneof(
      fc.constantFrom(0x0808_0808n, 0x0808_0881n, 0x0909_0909n, 0x0a01_0203n, 0x0a02_0001n),
      fc.constantFrom(0xa83f_8110n, 0xa83f_8111n, 0x6464_64c8n, 0x7f00_0001n),
      fc.bigInt(0n, 0xffff_ffffn),
    );
    const protocol = fc.constantFrom('tcp' as const, 'udp' as const);
    fc.assert(
      fc.property(rules, rules, value, fc.integer({ min: 1, max: 10 }), protocol, (allow, deny, v, port, proto) => {
        const policy: EgressPolicy = { mode: 'open', allow, deny };
        const denied = holds(deniedPackets(policy), v, port, proto);
        const allowed = holds(allowedPackets(policy), v, port, proto);
        const reserved = reservedIpv4().some((r) => r.first <= v && v <= r.last);
        expect(denied).toBeLessThanOrEqual(1);
        expect(allowed).toBeLessThanOrEqual(1);
        // In the order of the chains in ruleset.ts.
        const address = formatAddress({ family: 4, value: v });
        const passes = metadataOf(address) === undefined && denied === 0 && (allowed === 1 || !reserved);
        const decision = decide(policy, { address, port, protocol: proto, names: [] });
        expect([address, port, proto, passes]).toEqual([address, port, proto, decision.allowed]);
      }),
      { numRuns: 3000 },
    );
  });
  it('limits the combinations of rules', () => {
    const allow = Array.from({ length: 256 }, (_, i) => `8.${i}.0.0/17:${i + 1}-60000`);
    expect(() => allowedPackets(parsePolicy({ mode: 'open', allow }))).toThrowError(
      expect.objectContaining({ code: 'policy_too_large' }),
    );
  });
  it('a block around private ranges is reduced to its public part', () => {
    const { everything } = allowedPackets(parsePolicy({ mode: 'open', allow: ['0.0.0.0/0'] }));
    const ten = rangeOf({ family: 4, base: 0x0a00_0000n, prefix: 8 });
    expect(everything.some((r) => r.first <= ten.last && ten.first <= r.last)).toBe(false);
    expect(everything.length).toBeGreaterThan(5);
  });
});
