import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Item, pageOf } from './paging.ts';

const items = fc.uniqueArray(fc.record({ id: fc.stringMatching(/^[a-z0-9]{20}$/), createdAtMs: fc.nat(5) }), {
  selector: ({ id }) => id,
  maxLength: 30,
});

describe('pages', () => {
  it('together have every item once, in order, whatever their size', () => {
    const query = fc.record({
      limit: fc.integer({ min: 1, max: 100 }),
      order: fc.constantFrom('asc' as const, 'desc' as const),
    });
    fc.assert(
      fc.property(items, query, (all, { limit, order }) => {
        const seen: Item[] = [];
        let nextToken: string | null | undefined;
        while (nextToken !== null) {
          const page = pageOf(all, { limit, order, nextToken });
          expect(page.items.length).toBeLessThanOrEqual(limit);
          seen.push(...page.items);
          nextToken = page.nextToken;
        }
        expect(seen).toHaveLength(all.length);
        const times = seen.map(({ createdAtMs }) => createdAtMs);
        const sorted = times.toSorted((a, b) => (order === 'asc' ? a - b : b - a));
        expect(times).toEqual(sorted);
        expect(new Set(seen.map(({ id }) => id)).size).toBe(all.length);
      }),
    );
  });

  it('refuse any other token', () => {
    const text = fc.oneof(fc.string(), fc.base64String());
    fc.assert(
      fc.property(text, (nextToken) => {
        expect(() => pageOf([], { nextToken })).toThrow('not a token');
      }),
    );
  });
});
