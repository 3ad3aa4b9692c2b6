/** Differences of RAM from a store: a typed error, or runs within the RAM that do not overlap. */

import { VmmError } from '../../src/machine/vmm/errors.ts';
import {
  DIFFERENCE_HEADER_BYTES,
  differenceHeader,
  differenceTable,
  parseDifferenceHeader,
  parseDifferenceTable,
  RunCollector,
  tableBytes,
  tableOffset,
} from '../../src/machine/vmm/ram-difference.ts';
import { PAGE_BYTES } from '../../src/sys/memory.ts';
import { must, target } from './target.ts';

const PAGES = 1024;
const RAM_BYTES = PAGES * PAGE_BYTES;

function seed(pages: readonly (readonly [page: number, isZero: boolean])[]): Buffer {
  const found = new RunCollector();
  for (const [page, isZero] of pages) found.add(page, isZero);
  const header = differenceHeader(found, { ramBytes: RAM_BYTES, baseDigest: 'ab'.repeat(32) });
  // Without data, which is only copied.
  return Buffer.concat([header, differenceTable(found.runs)]);
}

export const ramDifference = target(
  'ram-difference',
  (bytes) => {
    try {
      const head = Buffer.from(bytes.subarray(0, DIFFERENCE_HEADER_BYTES));
      const table = Buffer.from(bytes.subarray(DIFFERENCE_HEADER_BYTES));
      const dataPages = head.length === DIFFERENCE_HEADER_BYTES ? head.readUInt32LE(60) : 0;
      const size = tableOffset({ dataPages }) + table.length;
      const header = parseDifferenceHeader(head, size, { ramBytes: RAM_BYTES });
      must(tableBytes(header) === table.length, 'a table as long as the file');
      let next = 0;
      let data = 0;
      for (const { page, pages, isZero } of parseDifferenceTable(table, header)) {
        must(page >= next && pages > 0, 'a run after the one before');
        next = page + pages;
        if (!isZero) data += pages;
      }
      must(next <= PAGES && data === dataPages, 'runs within the RAM');
    } catch (error) {
      if (!(error instanceof VmmError)) throw error;
    }
  },
  {
    seeds: [
      seed([]),
      seed([
        [0, false],
        [1, true],
        [7, false],
      ]),
    ],
  },
);
