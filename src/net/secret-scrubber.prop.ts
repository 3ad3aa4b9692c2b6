import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Mask, maskOf, Scrubber } from './secret-scrubber.ts';

const RUNS = { numRuns: 2000, seed: 20_261_126 };
// A small alphabet, so that secrets overlap, contain and begin one another.
const word = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), minLength: 1, maxLength: 6 });
const masks = fc.array(
  word.map((find) => maskOf(find, 'XYZXYZ')),
  { minLength: 1, maxLength: 4 },
);
const text = fc.string({ unit: fc.constantFrom('a', 'b', 'c', 'd'), maxLength: 40 });
const cuts = fc.array(fc.nat({ max: 5 }), { maxLength: 40 });

/** Leftmost first, the longest of several: without a stream. */
function naive(list: readonly Mask[], bytes: string): string {
  let out = '';
  for (let at = 0; at < bytes.length; ) {
    const fitting = list
      .filter(({ find }) => bytes.startsWith(find.toString(), at))
      .toSorted((a, b) => b.find.length - a.find.length)[0];
    out += fitting === undefined ? bytes.charAt(at) : fitting.put.toString();
    at += fitting?.find.length ?? 1;
  }
  return out;
}

/** As it comes out, one text for each piece. */
function pieces(list: readonly Mask[], bytes: string, sizes: readonly number[]): string[] {
  const scrubber = new Scrubber(list);
  const out: string[] = [];
  let rest = Buffer.from(bytes);
  for (const size of sizes) {
    out.push(scrubber.push(rest.subarray(0, size)).toString());
    rest = rest.subarray(size);
  }
  out.push(scrubber.push(rest).toString(), scrubber.end().toString());
  return out;
}

describe('Scrubber properties', () => {
  it('whatever the cuts: what the whole text gives', () => {
    fc.assert(
      fc.property(masks, text, cuts, (list, bytes, sizes) => {
        expect(pieces(list, bytes, sizes).join('')).toBe(naive(list, bytes));
      }),
      RUNS,
    );
  });
  it('holds back only what begins a secret', () => {
    fc.assert(
      fc.property(masks, text, (list, bytes) => {
        const [out = ''] = pieces(list, bytes, [bytes.length]);
        const held = bytes.slice(out.length);
        const begins = list.some(({ find }) => find.toString().startsWith(held));
        expect(held === '' || begins).toBe(true);
      }),
      RUNS,
    );
  });
});
