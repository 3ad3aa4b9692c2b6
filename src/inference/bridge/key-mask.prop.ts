import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { KeyMask } from './key-mask.ts';

const KEY = 'sk-a/b"c-0123';
const ESCAPED = JSON.stringify(KEY).slice(1, -1);
const SLASHED = KEY.replace('/', '\\/');
const piece = fc.oneof(
  fc.constantFrom(KEY, ESCAPED, SLASHED, 'sk-a', KEY.slice(0, -1), KEY.slice(1), 's', '\n\n', 'é🙂'),
  fc.string({ maxLength: 8 }),
);
const text = fc.array(piece, { maxLength: 12 }).map((pieces) => pieces.join(''));

function masked(input: Buffer, cuts: readonly number[], key: string | undefined): Buffer {
  const mask = new KeyMask(key);
  const out: Buffer[] = [];
  const ends = [...cuts.map((cut) => cut % (input.length + 1)), input.length].sort((a, b) => a - b);
  let from = 0;
  for (const end of ends) {
    out.push(mask.push(input.subarray(from, end)));
    from = end;
  }
  return Buffer.concat([...out, mask.rest()]);
}

/** Masks everything at once, form by form. */
const expected = (input: string): Buffer => {
  let out = input;
  for (const form of new Set([KEY, ESCAPED, SLASHED])) out = out.replaceAll(form, '*'.repeat(form.length));
  return Buffer.from(out);
};

describe('KeyMask', () => {
  it('masks each form of the key and nothing else, however the bytes are cut', () => {
    fc.assert(
      fc.property(text, fc.array(fc.nat(), { maxLength: 20 }), (input, cuts) => {
        expect(masked(Buffer.from(input), cuts, KEY).equals(expected(input))).toBe(true);
      }),
    );
  });

  it('does not modify its input, and masks nothing without a key', () => {
    fc.assert(
      fc.property(text, fc.array(fc.nat(), { maxLength: 5 }), (input, cuts) => {
        const bytes = Buffer.from(input);
        masked(bytes, cuts, KEY);
        expect(bytes.toString()).toBe(input);
        for (const none of [undefined, '', 'short']) {
          expect(masked(bytes, cuts, none).toString()).toBe(input);
        }
      }),
    );
  });

  it('holds nothing back at the end of an event', () => {
    const mask = new KeyMask(KEY);
    const event = Buffer.from('data: {"text":"sk-"}\n\n');
    expect(mask.push(event)).toEqual(event);
  });
});
