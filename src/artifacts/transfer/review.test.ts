import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { SumReader } from './checksums.ts';
import { isSame } from './content.ts';
import { applyChanges, type Change, staysInside } from './review.ts';

describe('staysInside', () => {
  it.each([
    ['a', 'b', true],
    ['a', './sub/b', true],
    ['d/a', '../b', true],
    ['d/e/a', '../../b/c', true],
    ['d/a', '..', true],
    ['a', '..', false],
    ['d/a', '../../b', false],
    ['a', '/etc/passwd', false],
    ['a', '', false],
    // The target of these depends on other links, which the guest also creates.
    ['a', 'd/../b', false],
    ['d/a', '../d/../../b', false],
  ])('a link %s -> %s: %s', (path, target, inside) => {
    expect(staysInside(path, target)).toBe(inside);
  });
});

describe('isSame', () => {
  it('compares content and permissions of files, targets of links, types of directories', () => {
    const file = { type: 'file', mode: 0o644, bytes: 1, sha256: 'a' } as const;
    expect(isSame(file, { ...file })).toBe(true);
    expect(isSame(file, { ...file, sha256: 'b' })).toBe(false);
    expect(isSame(file, { ...file, mode: 0o755 })).toBe(false);
    expect(isSame({ type: 'directory', mode: 1 }, { type: 'directory', mode: 2 })).toBe(true);
    expect(isSame({ type: 'symlink', target: 'a' }, { type: 'symlink', target: 'b' })).toBe(false);
    expect(isSame(file, { type: 'directory', mode: 0 })).toBe(false);
    expect(isSame(null, null)).toBe(true);
    expect(isSame(null, file)).toBe(false);
  });
});

describe('SumReader', () => {
  const sum = '0'.repeat(64);
  const read = (text: string, cut: number, ...wanted: string[]) => {
    const reader = new SumReader(new Set(wanted));
    const bytes = Buffer.from(text);
    for (let at = 0; at < bytes.length; at += cut) reader.receive(bytes.subarray(at, at + cut));
    return Object.fromEntries(reader.sums);
  };

  it.each([1, 7, 1000])('reads the sums of the requested paths, in pieces of %i bytes', (cut) => {
    const text = `${sum}  a\nb\0${sum} *ü\0${sum}  other\0`;
    expect(read(text, cut, 'a\nb', 'ü', 'missing')).toEqual({ 'a\nb': sum, ü: sum });
  });

  it('ignores lines that are not from sha256sum, and output without an end', () => {
    expect(read(`nonsense\0${sum.slice(1)}  a\0${sum}  a`, 10, 'a')).toEqual({});
    const endless = `${'x'.repeat(100_000)}\0${sum}  a\0`;
    expect(read(endless, 1000, 'a')).toEqual({ a: sum });
  });
});

it('applyChanges: files whose directory is gone leak no descriptor', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'nv-review-'));
  try {
    writeFileSync(join(dir, 'staged'), 'x');
    const after = { type: 'file', mode: 0o644, bytes: 1, sha256: 'x' } as const;
    const changes = Array.from({ length: 50 }, (_, at): Change => {
      const path = `gone/${at}`;
      const staged = join(dir, 'staged');
      return { kind: 'created', path, before: null, after, staged, conflict: null };
    });
    const before = readdirSync('/proc/self/fd').length;
    const applied = await applyChanges({ from: dir }, { changes });
    expect(new Set(applied.map(({ kept }) => kept))).toEqual(new Set(['its directory is gone on this machine']));
    expect(readdirSync('/proc/self/fd').length - before).toBeLessThan(10);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

it('applyChanges: keeps files that change here while others are written', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'nv-review-'));
  try {
    const file = (text: string) => {
      const sha256 = createHash('sha256').update(text).digest('hex');
      return { type: 'file', mode: 0o644, bytes: text.length, sha256 } as const;
    };
    for (const name of ['a', 'b', 'c']) writeFileSync(join(dir, name), 'old', { mode: 0o644 });
    const pipe = join(dir, 'pipe');
    execFileSync('mkfifo', [pipe]);
    writeFileSync(join(dir, 'staged'), 'new');
    const staged = join(dir, 'staged');
    const [before, after, conflict] = [file('old'), file('new'), null];
    const changes: Change[] = [
      { kind: 'changed', path: 'a', before, after, staged: pipe, conflict },
      { kind: 'changed', path: 'b', before, after, staged, conflict },
      { kind: 'changed', path: 'c', before, after, staged, conflict },
      { kind: 'created', path: 'd', before: null, after, staged, conflict },
    ];
    const applying = applyChanges({ from: dir }, { changes });
    // Opens when the first file is being written.
    const writer = await open(pipe, 'w');
    writeFileSync(join(dir, 'b'), 'mine');
    writeFileSync(join(dir, 'd'), 'mine');
    await writer.writeFile('new');
    await writer.close();
    const late = 'it changed on this machine since it was sent';
    expect(await applying).toEqual([
      { path: 'a', kept: null },
      { path: 'b', kept: late },
      { path: 'c', kept: null },
      { path: 'd', kept: late },
    ]);
    const contents = ['a', 'b', 'c', 'd'].map((name) => readFileSync(join(dir, name), 'utf8'));
    expect(contents).toEqual(['new', 'mine', 'new', 'mine']);
  } finally {
    rmSync(dir, { recursive: true });
  }
});
