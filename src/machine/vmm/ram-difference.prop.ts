import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PAGE_BYTES } from '../../sys/memory.ts';
import { VmmError } from './errors.ts';
import {
  DIFFERENCE_HEADER_BYTES,
  differenceHeader,
  differenceTable,
  parseDifferenceHeader,
  parseDifferenceTable,
  RunCollector,
  tableOffset,
} from './ram-difference.ts';

const PAGES = 64;
const RAM_BYTES = PAGES * PAGE_BYTES;
/** State of each page: as in the base, zero, or other data. */
const pages = fc.array(fc.constantFrom('same', 'zero', 'data'), { maxLength: PAGES });
const digest = fc.uint8Array({ minLength: 32, maxLength: 32 }).map((bytes) => Buffer.from(bytes).toString('hex'));

function collect(kinds: readonly string[]): RunCollector {
  const found = new RunCollector();
  for (const [page, kind] of kinds.entries()) if (kind !== 'same') found.add(page, kind === 'zero');
  return found;
}

describe('ram-difference', () => {
  it('round trip: each page once, and adjacent pages in one run', () => {
    fc.assert(
      fc.property(pages, digest, (kinds, baseDigest) => {
        const found = collect(kinds);
        const expected = { ramBytes: RAM_BYTES, baseDigest };
        const head = differenceHeader(found, expected);
        const table = differenceTable(found.runs);
        const size = tableOffset(found) + table.length;
        const header = parseDifferenceHeader(head, size, expected);
        const runs = parseDifferenceTable(table, header);
        const again = kinds.map(() => 'same');
        for (const { page, pages, isZero } of runs) {
          again.fill(isZero ? 'zero' : 'data', page, page + pages);
        }
        expect(again).toEqual(kinds);
        for (const [index, run] of runs.entries()) {
          const before = runs[index - 1];
          const touches = before !== undefined && before.page + before.pages === run.page;
          expect(touches && before.isZero === run.isZero).toBe(false);
        }
      }),
    );
  });

  it('altered bytes: a typed error, or non-overlapping runs within the RAM', () => {
    const change = fc.record({ at: fc.nat(), value: fc.nat(255) });
    fc.assert(
      fc.property(pages, fc.array(change, { minLength: 1, maxLength: 8 }), (kinds, changes) => {
        const found = collect(kinds);
        const baseDigest = '0'.repeat(64);
        const table = differenceTable(found.runs);
        const file = Buffer.concat([differenceHeader(found, { ramBytes: RAM_BYTES, baseDigest }), table]);
        for (const { at, value } of changes) file[at % file.length] = value;
        const size = tableOffset(found) + table.length;
        try {
          const head = file.subarray(0, DIFFERENCE_HEADER_BYTES);
          const header = parseDifferenceHeader(head, size, { ramBytes: RAM_BYTES });
          let next = 0;
          for (const run of parseDifferenceTable(file.subarray(DIFFERENCE_HEADER_BYTES), header)) {
            expect(run.page).toBeGreaterThanOrEqual(next);
            next = run.page + run.pages;
          }
          expect(next).toBeLessThanOrEqual(PAGES);
        } catch (error) {
          if (!(error instanceof VmmError)) throw error;
          expect(error.code).toBe('snapshot_refused');
        }
      }),
    );
  });
});
