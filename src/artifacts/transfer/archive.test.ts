import { execFileSync, spawnSync } from 'node:child_process';
import { lstat, mkdtemp, readFile, readlink, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { GIB } from '../../base/units.ts';
import { type ArchiveMember, archive, memberHeader } from './archive.ts';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-archive-'));
});
afterEach(() => rm(dir, { recursive: true }));

const file = (path: string, bytes: number): ArchiveMember => ({ type: 'file', path, mode: 0o640, bytes });
const bytesOf = (members: readonly ArchiveMember[], content: (at: number) => Buffer) =>
  buffer(Readable.from(archive(members, (member) => Readable.from([content(members.indexOf(member))]))));

describe('archive', () => {
  it('tar extracts the names, modes, contents and link targets', async () => {
    const long = `${'d'.repeat(90)}/${'ü'.repeat(120)}`;
    const members: ArchiveMember[] = [
      { type: 'directory', path: 'd'.repeat(90), mode: 0o750, bytes: 0 },
      file(long, 1000),
      file('--checkpoint=1', 512),
      file('empty', 0),
      { type: 'symlink', path: 'link', mode: 0o777, bytes: 0, target: `../${'t'.repeat(150)}` },
    ];
    const content = (at: number): Buffer => Buffer.alloc(members[at]?.bytes ?? 0, at);
    const input = await bytesOf(members, content);
    execFileSync('tar', ['-xpf', '-', '-C', dir], { input });
    for (const [at, { path, mode, type, target }] of members.entries()) {
      const info = await lstat(join(dir, path));
      if (type === 'symlink') expect(await readlink(join(dir, path))).toBe(target);
      else expect(info.mode & 0o777).toBe(mode);
      if (type === 'file') expect(await readFile(join(dir, path))).toEqual(content(at));
    }
  });

  it('writes the size of a 9 GiB file in a header that tar reads', () => {
    const bytes = 9 * GIB;
    const input = memberHeader(file('big', bytes));
    const { stdout } = spawnSync('tar', ['-tvf', '-'], { input, encoding: 'utf8' });
    expect(stdout).toContain(` ${bytes} `);
  });

  it.each([
    ['shrank', 5],
    ['grew', 7],
  ])('refuses a file that %s during the copy, since its content would differ', async (_what, bytes) => {
    await expect(bytesOf([file('a', 6)], () => Buffer.alloc(bytes))).rejects.toMatchObject({
      code: 'invalid_source',
      message: 'a changed while it was copied',
    });
  });
});
