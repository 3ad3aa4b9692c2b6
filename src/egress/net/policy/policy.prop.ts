import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatAddress } from '../addresses/addresses.ts';
import { METADATA_BLOCKS, reservedRangeOf } from '../addresses/metadata.ts';
import { parseRule } from './egress-rules.ts';
import { type Destination, decide, type EgressPolicy } from './policy.ts';

const RUNS = { numRuns: 1500 };
const port = fc.constantFrom(22, 53, 80, 443, 8080);
const name = fc.constantFrom('a.test', 'b.a.test', 'c.test', 'metadata.google.internal');
const address = fc.oneof(
  fc.constantFrom('8.8.8.8', '8.8.4.4', '10.1.2.3', '10.2.0.1', '127.0.0.1', '2606:4700::1'),
  fc.constantFrom('169.254.169.254', '168.63.129.16', '100.100.100.200', '64:ff9b::a00:1'),
  fc.bigInt(0n, 0xffff_ffffn).map((value) => formatAddress({ family: 4, value })),
);
const target = fc.oneof(
  fc.constantFrom('0.0.0.0/0', '::/0', '8.0.0.0/8', '8.8.8.8', '10.0.0.0/8', '10.1.0.0/16'),
  fc.constantFrom('168.63.0.0/16', '100.64.0.0/10', '169.254.0.0/16', '169.254.169.254', 'a.test'),
  fc.constantFrom('*.a.test', '*.test', 'metadata.google.internal'),
);
const rule = fc.tuple(target, fc.option(fc.tuple(port, fc.constantFrom('', '/tcp', '/udp')))).map(([text, ports]) => {
  const host = text.startsWith('::') ? `[${text}]` : text;
  return parseRule(ports === null ? text : `${host}:${ports[0]}${ports[1]}`);
});
const rules = fc.array(rule, { maxLength: 6 });
const policy: fc.Arbitrary<EgressPolicy> = fc.record({
  mode: fc.constantFrom('none' as const, 'allowlist' as const, 'open' as const),
  allow: rules,
  deny: rules,
});
const destination: fc.Arbitrary<Destination> = fc.record({
  address,
  port,
  protocol: fc.constantFrom('tcp' as const, 'udp' as const),
  names: fc.array(name, { maxLength: 2 }),
});

describe('policy properties', () => {
  it('the order of rules does not matter', () => {
    fc.assert(
      fc.property(policy, destination, ({ mode, allow, deny }, to) => {
        const turned = { mode, allow: allow.toReversed(), deny: deny.toReversed() };
        const one = decide({ mode, allow, deny }, to);
        const other = decide(turned, to);
        expect([other.allowed, other.reason]).toEqual([one.allowed, one.reason]);
      }),
      RUNS,
    );
  });
  it('deny beats allow: adding a deny rule never allows anything, and refuses everything that it would match as an allow rule', () => {
    fc.assert(
      fc.property(policy, rule, destination, (p, extra, to) => {
        const after = decide({ ...p, deny: [...p.deny, extra] }, to);
        if (after.allowed) expect(decide(p, to).allowed).toBe(true);
        const alone: EgressPolicy = { mode: 'allowlist', allow: [extra], deny: [] };
        if (decide(alone, { ...to, names: to.names.slice(0, 1) }).allowed) {
          expect(after.allowed).toBe(false);
        }
      }),
      RUNS,
    );
  });
  it('adding an allow rule never refuses anything', () => {
    fc.assert(
      fc.property(policy, rule, destination, (p, extra, to) => {
        if (decide(p, to).allowed) {
          expect(decide({ ...p, allow: [extra, ...p.allow] }, to).allowed).toBe(true);
        }
      }),
      RUNS,
    );
  });
  it('metadata is never allowed, in any disguise', () => {
    const inside = fc.constantFrom(...METADATA_BLOCKS).chain((block) => {
      const bits = (block.family === 4 ? 32 : 128) - block.prefix;
      return fc
        .bigInt(0n, (1n << BigInt(bits)) - 1n)
        .map((offset) => ({ family: block.family, value: block.base + offset }));
    });
    const disguised = fc.tuple(inside, fc.nat({ max: 5 })).map(([{ family, value }, how]) => {
      const hex = (bits: bigint): string => bits.toString(16);
      const plain = formatAddress({ family, value });
      if (family === 6) return plain;
      const pair = `${hex(value >> 16n)}:${hex(value & 0xffffn)}`;
      const forms = [plain, String(value), `0x${hex(value)}`, `::ffff:${plain}`, `64:ff9b::${pair}`];
      return forms[how] ?? `2002:${pair}::1`;
    });
    fc.assert(
      fc.property(policy, destination, disguised, (p, to, text) => {
        const decision = decide(p, { ...to, address: text });
        expect([text, decision.allowed]).toEqual([text, false]);
        if (!to.names.includes('metadata.google.internal')) expect(decision.reason).toBe('metadata');
      }),
      RUNS,
    );
  });
  it('without rules, open reaches no reserved range', () => {
    fc.assert(
      fc.property(destination, (to) => {
        const { allowed } = decide({ mode: 'open', allow: [], deny: [] }, to);
        if (reservedRangeOf(to.address) !== undefined) expect(allowed).toBe(false);
      }),
      RUNS,
    );
  });
});
