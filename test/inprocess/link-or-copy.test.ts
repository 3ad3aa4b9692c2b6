/** A second name for a large file. */
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { linkOrCopy } from '../../src/sys/link-or-copy.ts';

let dir = '';
let from = '';
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-link-'));
  from = join(dir, 'from');
  writeFileSync(from, 'content');
});
afterEach(() => rmSync(dir, { recursive: true }));
const inode = (path: string): bigint => statSync(path, { bigint: true }).ino;

describe('linkOrCopy', () => {
  it('links the same file if possible', async () => {
    const to = join(dir, 'to');
    await linkOrCopy(from, to);
    expect(inode(to)).toBe(inode(from));
  });

  it('an open file with a name: links that file; without one: copies', async () => {
    const fd = openSync(from, 'r');
    try {
      await linkOrCopy(`/proc/self/fd/${fd}`, join(dir, 'linked'));
      expect(inode(join(dir, 'linked'))).toBe(inode(from));
      rmSync(join(dir, 'linked'));
      rmSync(from);
      await linkOrCopy(`/proc/self/fd/${fd}`, join(dir, 'copied'));
      expect(readFileSync(join(dir, 'copied'), 'utf8')).toBe('content');
    } finally {
      closeSync(fd);
    }
  });

  it('another file system: copies', async () => {
    const there = mkdtempSync('/dev/shm/nv-link-');
    try {
      const to = join(there, 'to');
      await linkOrCopy(from, to);
      expect(readFileSync(to, 'utf8')).toBe('content');
    } finally {
      rmSync(there, { recursive: true });
    }
  });

  it('never replaces a file; a missing source leaves nothing behind', async () => {
    const to = join(dir, 'to');
    writeFileSync(to, 'mine');
    await expect(linkOrCopy(from, to)).rejects.toMatchObject({ code: 'EEXIST' });
    expect(readFileSync(to, 'utf8')).toBe('mine');
    await expect(linkOrCopy(join(dir, 'none'), join(dir, 'other'))).rejects.toThrow();
    expect(() => statSync(join(dir, 'other'))).toThrow();
  });
});
