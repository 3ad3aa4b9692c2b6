import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ByteTail } from './tail.ts';

describe('ByteTail', () => {
  it('ByteTail: holds the last bytes of all that was pushed, like a slice of the whole', () => {
    const text = fc.string({ unit: fc.constantFrom('a', 'b', 'c', '\n'), maxLength: 40 });
    const longText = fc
      .tuple(fc.constantFrom('d', 'e', 'f'), fc.integer({ min: 40, max: 400 }))
      .map(([letter, length]) => `${letter.repeat(length)}\n`);
    fc.assert(
      fc.property(
        fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 1_000 })),
        fc.array(fc.oneof(text, longText), { maxLength: 20 }),
        (max, parts) => {
          const tail = new ByteTail(max);
          for (const part of parts) tail.push(Buffer.from(part));
          expect(tail.text()).toBe(parts.join('').slice(-max));
        },
      ),
      { numRuns: 2_000 },
    );
  });
});
