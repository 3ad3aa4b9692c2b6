import { mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { digestSparse } from '../../sys/sparse.ts';
import { WholeFiles } from './whole-files.ts';

describe('WholeFiles', () => {
  it('reads a file once while it is unchanged, and again after a change', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'nv-whole-'));
    try {
      const path = join(dir, 'file');
      const other = join(dir, 'other');
      await writeFile(path, 'some bytes');
      await writeFile(other, 'other bytes');
      const digest = await digestSparse(path);
      await using file = await open(path, 'r+');
      await using wrong = await open(other);
      /** The identity of the file, with the bytes of another. */
      const unread = { stat: file.stat.bind(file), fd: wrong.fd } as typeof file;
      const whole = new WholeFiles();
      expect(await whole.isWhole(digest, unread)).toBe(false);
      // The file system answers in any order. An already known status fixes the order of the two calls.
      const status = await file.stat({ bigint: true });
      const seen = ({ fd }: typeof file): typeof file =>
        ({ stat: async () => await Promise.resolve(status), fd }) as never;
      const both = await Promise.all([whole.isWhole(digest, seen(file)), whole.isWhole(digest, seen(wrong))]);
      expect(both).toEqual([true, true]);
      await file.write('S', 0);
      expect(await whole.isWhole(digest, unread)).toBe(false);
      expect(await whole.isWhole(digest, file)).toBe(false);
      await file.write('s', 0);
      expect(await whole.isWhole(digest, file)).toBe(true);
      await whole.add('a digest computed elsewhere', other);
      expect(await whole.isWhole('a digest computed elsewhere', wrong)).toBe(true);
    } finally {
      await rm(dir, { recursive: true });
    }
  });
});
