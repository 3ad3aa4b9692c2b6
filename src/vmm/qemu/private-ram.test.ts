import { describe, expect, it } from 'vitest';
import { piecesOf } from './private-ram.ts';

const MAPS = `7f2c5c000000-7f2c7c000000 rw-p 00000000 00:01 2051                       /memfd:shared-ram (deleted)
7f2c7c000000-7f2c7c021000 rw-p 00000000 00:00 0
7f2c80000000-7f2c90000000 rw-s 00000000 00:01 2051                       /memfd:shared-ram (deleted)
7f2ca0000000-7f2ca0200000 rw-p 1fe00000 00:01 2051                       /memfd:shared-ram (deleted)
7f2cb0000000-7f2cb0200000 r-xp 00000000 fe:00 2051                       /usr/lib/a
`;

describe('piecesOf', () => {
  it('finds the private mappings of the file alone, with their offsets', () => {
    expect(piecesOf(MAPS, { dev: 1n, ino: 2051n })).toEqual([
      { address: 0x7f2c5c000000, bytes: 0x20000000, offset: 0 },
      { address: 0x7f2ca0000000, bytes: 0x200000, offset: 0x1fe00000 },
    ]);
    expect(piecesOf(MAPS, { dev: 0xfe00n, ino: 2051n })).toHaveLength(1);
    expect(piecesOf(MAPS, { dev: 1n, ino: 7n })).toEqual([]);
    expect(piecesOf('', { dev: 1n, ino: 2051n })).toEqual([]);
  });
});
