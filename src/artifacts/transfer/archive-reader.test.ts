import { execFileSync } from 'node:child_process';
import { chmodSync, linkSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer, text } from 'node:stream/consumers';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ARCHIVE_END, type ArchiveMember, archive, memberHeader } from './archive.ts';
import { type ReadMember, readArchive } from './archive-reader.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-read-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

type Seen = Omit<ReadMember, 'content'> & { readonly text: string };

async function read(bytes: Uint8Array, chunkBytes = 700): Promise<Seen[]> {
  const chunks: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += chunkBytes) chunks.push(bytes.subarray(at, at + chunkBytes));
  const seen: Seen[] = [];
  for await (const { content, ...member } of readArchive(Readable.from(chunks))) {
    seen.push({ ...member, text: await text(Readable.from(content)) });
  }
  return seen;
}

const write = (members: readonly ArchiveMember[], content = '') =>
  buffer(Readable.from(archive(members, () => Readable.from([Buffer.from(content)]))));
const header = (more: Partial<ArchiveMember> & { readonly path: string }) =>
  memberHeader({ type: 'file', mode: 0o644, bytes: 0, ...more });

/** With its sum, after a change. */
function summed(block: Buffer): Buffer {
  block.write(' '.repeat(8), 148);
  block.write(
    `${block
      .reduce((total, byte) => total + byte, 0)
      .toString(8)
      .padStart(6, '0')}\0 `,
    148,
  );
  return block;
}

describe('readArchive', () => {
  it.each(['gnu', 'pax', 'ustar', 'v7'])('reads what tar writes as %s', async (format) => {
    const deep = join('d'.repeat(60), 'e'.repeat(60));
    const long = format === 'v7' ? 'short' : join(deep, 'f'.repeat(30));
    mkdirSync(join(dir, deep), { recursive: true });
    writeFileSync(join(dir, long), 'content');
    chmodSync(join(dir, long), 0o751);
    utimesSync(join(dir, long), 1_000_000_000, 1_000_000_000);
    symlinkSync('../elsewhere', join(dir, 'link'));
    const tar = execFileSync('tar', ['-cf', '-', `--format=${format}`, '-C', dir, long, 'link']);
    if (format === 'v7') {
      await expect(read(tar)).rejects.toThrow('not a tar archive');
      return;
    }
    expect(await read(tar)).toEqual([
      { type: 'file', path: long, bytes: 7, mode: 0o751, modifiedS: 1_000_000_000, text: 'content' },
      {
        type: 'symlink',
        path: 'link',
        bytes: 0,
        mode: 0o777,
        modifiedS: expect.any(Number),
        target: '../elsewhere',
        text: '',
      },
    ]);
  });

  it('skips content that is not read; the directory itself has an empty path', async () => {
    const members: ArchiveMember[] = [
      { type: 'directory', path: '.', mode: 0o755, bytes: 0 },
      { type: 'file', path: 'a', mode: 0o600, bytes: 5 },
      { type: 'file', path: 'b', mode: 0o600, bytes: 5 },
    ];
    const paths: string[] = [];
    for await (const { path } of readArchive(Readable.from([await write(members, '12345')]))) paths.push(path);
    expect(paths).toEqual(['', 'a', 'b']);
  });

  it.each(['/etc/passwd', '../x', 'a/../../x', `${'x'.repeat(256)}`, `${'y/'.repeat(3000)}z`])(
    'refuses the path %.20s',
    async (path) => {
      const member = header({ path: 'placeholder' });
      const note =
        path.length > 90 ? header({ path }) : summed(Buffer.from(member).fill(0, 0, 100).fill(path, 0, path.length));
      await expect(read(Buffer.concat([note, ARCHIVE_END]))).rejects.toMatchObject({ code: 'invalid_source' });
    },
  );

  it('refuses hard links, devices and pipes by name', async () => {
    writeFileSync(join(dir, 'a'), '');
    linkSync(join(dir, 'a'), join(dir, 'b'));
    execFileSync('mkfifo', [join(dir, 'pipe')]);
    const linked = execFileSync('tar', ['-cf', '-', '-C', dir, 'a', 'b']);
    await expect(read(linked)).rejects.toThrow('"b" is not a file');
    const piped = execFileSync('tar', ['-cf', '-', '-C', dir, 'pipe']);
    await expect(read(piped)).rejects.toThrow('"pipe" is not a file');
  });

  it('refuses what is cut off, altered, compressed or continued', async () => {
    const whole = await write([{ type: 'file', path: 'a', mode: 0o600, bytes: 5 }], '12345');
    expect(await read(whole)).toHaveLength(1);
    for (const bytes of [0, 100, 512, 514, 1023, 1024]) {
      await expect(read(whole.subarray(0, bytes))).rejects.toThrow('ends too early');
    }
    const altered = Buffer.from(whole).fill('z', 0, 1);
    await expect(read(altered)).rejects.toThrow('not a tar archive');
    await expect(read(Buffer.concat([gzipSync(whole), Buffer.alloc(600)]))).rejects.toThrow('compressed');
    await expect(read(Buffer.concat([whole, Buffer.from('more')]))).rejects.toThrow('follows its end');
  });

  it('bounds names: an endless one, and one after the other', async () => {
    const note = (bytes: number): Buffer => {
      const block = header({ path: 'x', bytes });
      block.write('L', 156);
      return summed(block);
    };
    await expect(read(note(10 ** 9))).rejects.toThrow('names are too long');
    const one = Buffer.concat([note(1), Buffer.alloc(512, 0)]);
    await expect(read(Buffer.concat(Array.from({ length: 20 }, () => one)))).rejects.toThrow('names are too long');
  });
});
