import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ByteTail } from './tail.ts';

describe('ByteTail', () => {
  it('ByteTail: holds the last bytes of all that was pushed, like a slice of the whole', () => {
    const text = fc.string({ unit: fc.constantFrom('a', 'b', 'c', '\n'), maxLength: 40 });
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 20 }),
        fc.array(text, { maxLength: 20 }),
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
