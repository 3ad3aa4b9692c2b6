import { describe, expect, it } from 'vitest';
import { PAGE_BYTES } from '../../sys/memory.ts';
import {
  differenceHeader,
  differenceTable,
  parseDifferenceHeader,
  parseDifferenceTable,
  RunCollector,
  tableOffset,
} from './ram-difference.ts';

const RAM_BYTES = 16 * PAGE_BYTES;
const BASE = 'ab'.repeat(32);

function example() {
  const found = new RunCollector();
  for (const [page, isZero] of [
    [1, false],
    [2, false],
    [5, true],
    [6, false],
  ] as const)
    found.add(page, isZero);
  const head = differenceHeader(found, { ramBytes: RAM_BYTES, baseDigest: BASE });
  const table = differenceTable(found.runs);
  return { head, table, size: tableOffset(found) + table.length };
}

const because = (text: string) =>
  expect.objectContaining({ code: 'snapshot_refused', cause: expect.stringContaining(text) });

describe('ram-difference', () => {
  it('has a header of 64 bytes, the data, and 8 bytes for each run', () => {
    const { head, table, size } = example();
    expect(size).toBe(64 + 3 * PAGE_BYTES + 3 * 8);
    expect(head.toString('latin1', 0, 8)).toBe('NVramdif');
    expect(head.toString('hex', 8, 24)).toBe('01000000001000000000010000000000');
    expect(head.toString('hex', 24, 56)).toBe(BASE);
    expect(table.toString('hex')).toBe('010000000200000005000000010000800600000001000000');
  });

  it.each([
    ['other bytes', 0, 'x', 'not a difference'],
    ['another version', 8, '\x02', 'version is 2'],
    ['other pages', 13, '\x20', 'another size'],
    ['other RAM', 20, '\x01', 'bytes of RAM'],
    ['another base', 30, 'x', 'other RAM'],
    ['more runs than pages', 58, '\x01', 'too many pages'],
    ['another number of runs', 56, '\x04', 'of 12384 bytes'],
    ['more data', 60, '\x04', 'bytes'],
  ])('parseDifferenceHeader: refuses %s', (_, at, text, cause) => {
    const { head, size } = example();
    head.write(text, at, 'latin1');
    expect(() => parseDifferenceHeader(head, size, { ramBytes: RAM_BYTES, baseDigest: BASE })).toThrow(because(cause));
  });

  it('parseDifferenceHeader: refuses a truncated file', () => {
    const { head, size } = example();
    const expected = { ramBytes: RAM_BYTES };
    expect(() => parseDifferenceHeader(head, size - 1, expected)).toThrow(because('bytes'));
    const cut = head.subarray(0, 63);
    expect(() => parseDifferenceHeader(cut, 63, expected)).toThrow(because('not a difference'));
  });

  it.each([
    ['an empty run', [[3, 0]], 'empty'],
    [
      'runs that overlap',
      [
        [3, 2],
        [4, 1],
      ],
      'overlap',
    ],
    [
      'runs in another order',
      [
        [4, 2],
        [1, 1],
      ],
      'overlap',
    ],
    ['a run beyond the RAM', [[15, 2]], 'beyond'],
    ['pages that overflow', [[0xffff_ffff, 0x7fff_ffff]], 'beyond'],
    ['other data than the file has', [[1, 1]], 'size of its data'],
  ] as const)('parseDifferenceTable: refuses %s', (_, words, cause) => {
    const table = Buffer.alloc(words.length * 8);
    for (const [index, [page, pages]] of words.entries()) {
      table.writeUInt32LE(page, index * 8);
      table.writeUInt32LE(pages, index * 8 + 4);
    }
    const header = { ramBytes: RAM_BYTES, runs: words.length, dataPages: 3 };
    expect(() => parseDifferenceTable(table, header)).toThrow(because(cause));
    const cut = table.subarray(0, -1);
    expect(() => parseDifferenceTable(cut, header)).toThrow(because('cut off'));
  });
});
