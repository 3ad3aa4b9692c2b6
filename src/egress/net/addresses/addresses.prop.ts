import { isIP } from 'node:net';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type AddressRange,
  cidrsOf,
  facesOf,
  formatAddress,
  type IpAddress,
  mergeRanges,
  parseAddress,
  rangeOf,
  readAddress,
  subtractRanges,
} from './addresses.ts';

const ipv4 = fc.bigInt(0n, 0xffff_ffffn).map((value): IpAddress => ({ family: 4, value }));
/** Groups are often 0, so that `::` occurs. */
const ipv6 = fc
  .array(fc.oneof(fc.constant(0n), fc.bigInt(0n, 0xffffn)), { minLength: 8, maxLength: 8 })
  .map((groups): IpAddress => ({ family: 6, value: groups.reduce((v, g) => (v << 16n) | g, 0n) }));
/** From a space of 256 addresses, so that ranges overlap. */
const ranges = fc.array(
  fc
    .tuple(fc.nat({ max: 255 }), fc.nat({ max: 255 }))
    .map(([a, b]): AddressRange => ({ family: 4, first: BigInt(Math.min(a, b)), last: BigInt(Math.max(a, b)) })),
  { maxLength: 8 },
);
const members = (list: readonly AddressRange[]): number[] =>
  Array.from({ length: 256 }, (_, i) => i).filter((i) =>
    list.some((range) => range.first <= BigInt(i) && BigInt(i) <= range.last),
  );

describe('addresses properties', () => {
  it('addresses are read back as written, in the spelling of the URL standard', () => {
    fc.assert(
      fc.property(fc.oneof(ipv4, ipv6), (address) => {
        const text = formatAddress(address);
        expect(parseAddress(text)).toEqual(address);
        expect(isIP(text)).toBe(address.family);
        const host = address.family === 6 ? `[${text}]` : text;
        expect(new URL(`http://${host}/`).hostname).toBe(host);
      }),
      { numRuns: 2000 },
    );
  });
  it('strict reading agrees with node on any text of address characters', () => {
    const text = fc.string({ unit: fc.constantFrom(...'0129afAF:.'), maxLength: 24 });
    fc.assert(
      fc.property(text, (t) => {
        expect(parseAddress(t)?.family ?? 0).toBe(isIP(t));
      }),
      { numRuns: 5000 },
    );
  });
  it('loose reading finds every IPv4 address that a URL parser finds', () => {
    const number = fc.oneof(fc.nat({ max: 300 }), fc.nat({ max: 0xffff_ffff }));
    const part = fc
      .tuple(number, fc.constantFrom(10, 16, 8))
      .map(([n, base]) => `${base === 16 ? '0x' : base === 8 ? '0' : ''}${n.toString(base)}`);
    fc.assert(
      fc.property(fc.array(part, { minLength: 1, maxLength: 5 }), (parts) => {
        const text = parts.join('.');
        const url = `http://${text}/`;
        const expected = URL.canParse(url) ? new URL(url).hostname : undefined;
        const address = readAddress(text);
        expect(address && formatAddress(address)).toBe(expected);
      }),
      { numRuns: 3000 },
    );
  });
  it('reads any text without an exception', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 80 }), (text) => {
        const address = readAddress(text);
        if (address !== undefined) facesOf(address);
      }),
      { numRuns: 3000 },
    );
  });
  it('sets of ranges behave as sets of addresses', () => {
    fc.assert(
      fc.property(ranges, ranges, (a, b) => {
        const merged = mergeRanges(a);
        expect(members(merged)).toEqual(members(a));
        for (const [i, range] of merged.entries()) {
          const next = merged[i + 1];
          if (next !== undefined) expect(next.first).toBeGreaterThan(range.last + 1n);
        }
        const taken = new Set(members(b));
        const left = subtractRanges(a, b);
        expect(members(left)).toEqual(members(a).filter((i) => !taken.has(i)));
        const blocks = left.flatMap(cidrsOf).map(rangeOf);
        expect(mergeRanges(blocks)).toEqual(left);
      }),
      { numRuns: 1000 },
    );
  });
});
