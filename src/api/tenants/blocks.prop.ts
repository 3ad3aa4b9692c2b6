import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BLOCK, type Block, blockText, isBlock, isWithin, parseBlock, without } from './blocks.ts';

const block = fc
  .record({ address: fc.nat(2 ** 32 - 1), bits: fc.integer({ min: 0, max: 32 }) })
  .map(({ address, bits }): Block => {
    const size = 2 ** (32 - bits);
    return { base: address - (address % size), bits };
  });
const isIn = (address: number, one: Block): boolean => isWithin({ base: address, bits: 32 }, one);

describe('blocks', () => {
  it('a block without another has exactly the addresses that the other lacks', () => {
    fc.assert(
      fc.property(block, block, fc.nat(2 ** 32 - 1), (outer, hole, anywhere) => {
        const left = without(outer, hole);
        expect(left.length).toBeLessThanOrEqual(32);
        for (const address of [anywhere, outer.base, hole.base]) {
          const expected = isIn(address, outer) && !isIn(address, hole);
          expect(left.filter((one) => isIn(address, one)).length).toBe(expected ? 1 : 0);
        }
      }),
    );
  });

  it('a block is read back from its text unchanged', () => {
    fc.assert(
      fc.property(block, (one) => {
        expect(parseBlock(blockText(one))).toEqual(one);
        expect(blockText(one)).toMatch(BLOCK);
        expect(isBlock(blockText(one))).toBe(true);
      }),
    );
  });

  it('BLOCK matches what parseBlock reads, except for zeros in front', () => {
    const part = fc.integer({ min: 0, max: 300 });
    fc.assert(
      fc.property(
        fc.array(part, { minLength: 3, maxLength: 5 }),
        fc.option(fc.integer({ min: 0, max: 40 })),
        (parts, bits) => {
          const text = `${parts.join('.')}${bits === null ? '' : `/${bits}`}`;
          expect(BLOCK.test(text)).toBe(parseBlock(text) !== null);
        },
      ),
    );
  });

  it.each(['10.0.0.1/8', '10.0.0.0/08', '10.0.0.0/33', '10.0.0', '::1', 'example.com', ''])(
    '%j is not a block',
    (text) => {
      expect(isBlock(text)).toBe(false);
      expect(isBlock('10.0.0.1')).toBe(true);
      // A pattern sees all but bits beyond the prefix.
      expect(BLOCK.test(text)).toBe(text === '10.0.0.1/8');
    },
  );
});
