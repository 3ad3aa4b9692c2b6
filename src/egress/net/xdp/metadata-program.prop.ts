import fc from 'fast-check';
import { describe, it } from 'vitest';
import { interpret } from '../../../../test/support/ebpf-interpreter.ts';
import { frameTo } from '../../../../test/support/metadata-frames.ts';
import type { Family } from '../addresses/addresses.ts';
import { METADATA_BLOCKS, metadataOf } from '../addresses/metadata.ts';
import { COUNTS_BYTES, ipv6Patterns, metadataProgram, XDP } from './metadata-program.ts';

const PROGRAM = metadataProgram(3);
const PATTERNS = ipv6Patterns(METADATA_BLOCKS);
const ipv6 = fc.bigInt({ min: 0n, max: (1n << 128n) - 1n });

/** IPv6 addresses with the bits of a pattern, but for a few flipped: a random address would rarely be in a block. */
const nearPattern = fc
  .tuple(ipv6, fc.constantFrom(...PATTERNS), fc.array(fc.nat({ max: 127 }), { maxLength: 2 }))
  .map(([value, pattern, flips]) => {
    const inside = (value & ~pattern.mask) | pattern.value;
    return flips.reduce((all, bit) => all ^ (1n << BigInt(bit)), inside);
  });
const nearBlock = fc
  .tuple(
    fc.bigInt({ min: 0n, max: 0xffff_ffffn }),
    fc.constantFrom(...METADATA_BLOCKS.filter(({ family }) => family === 4)),
    fc.nat({ max: 32 }),
  )
  .map(([value, { base }, bits]) => base ^ (value & ((1n << BigInt(bits)) - 1n)));

const dropped = (family: Family, value: bigint): boolean =>
  interpret(PROGRAM, frameTo({ family, value }), COUNTS_BYTES).verdict === XDP.drop;

describe('metadataProgram', () => {
  it('drops an address exactly where resolver, gateway and packet filter refuse it', () => {
    const agrees = (family: Family) => (value: bigint) =>
      dropped(family, value) === (metadataOf({ family, value }) !== undefined);
    fc.assert(fc.property(nearPattern, agrees(6)), { numRuns: 3000 });
    fc.assert(fc.property(ipv6, agrees(6)));
    fc.assert(fc.property(nearBlock, agrees(4)), { numRuns: 1000 });
  });
});
