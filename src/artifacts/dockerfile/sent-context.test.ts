import { lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type ArchiveMember, archive } from '../transfer/archive.ts';
import { CONTEXT_LIMITS } from './limits.ts';
import { writeSentContext } from './sent-context.ts';

let base: string;
let dir: string;
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'nv-sent-'));
  dir = join(base, 'context');
  mkdirSync(dir);
});
afterEach(() => rmSync(base, { recursive: true }));

const { signal } = new AbortController();
const file = (path: string, mode = 0o644): ArchiveMember => ({ type: 'file', path, mode, bytes: 4, modifiedS: 1000 });
const directory = (path: string, mode = 0o755): ArchiveMember => ({
  type: 'directory',
  path,
  mode,
  bytes: 0,
  modifiedS: 2000,
});
const link = (path: string, target: string): ArchiveMember => ({
  type: 'symlink',
  path,
  mode: 0o777,
  bytes: 0,
  target,
});

const receive = (
  members: readonly ArchiveMember[],
  limits = CONTEXT_LIMITS as Parameters<typeof writeSentContext>[3],
) =>
  writeSentContext(
    dir,
    archive(members, () => Readable.from([Buffer.from('text')])),
    signal,
    limits,
  );
const refused = (members: readonly ArchiveMember[], limits?: Parameters<typeof writeSentContext>[3]) =>
  expect(receive(members, limits)).rejects.toMatchObject({ code: 'context_invalid' });

describe('writeSentContext', () => {
  it('writes files, directories and links with modes and times, and directories that have no member', async () => {
    await receive([directory('d', 0o500), file('d/a', 0o4755), file('x/y/b', 0o600), link('d/l', '../../etc')]);
    expect(readFileSync(join(dir, 'd/a'), 'utf8')).toBe('text');
    // A file of a stranger must not run as its owner.
    expect(lstatSync(join(dir, 'd/a')).mode & 0o7777).toBe(0o755);
    expect(lstatSync(join(dir, 'd')).mode & 0o777).toBe(0o500);
    expect(lstatSync(join(dir, 'd')).mtimeMs).toBe(2_000_000);
    expect(lstatSync(join(dir, 'x/y/b')).mtimeMs).toBe(1_000_000);
    expect(readlinkSync(join(dir, 'd/l'))).toBe('../../etc');
  });

  it('the directory itself gets the mode that the archive says, or that of a usual one', async () => {
    await receive([file('a')]);
    expect(lstatSync(dir).mode & 0o777).toBe(0o755);
    rmSync(dir, { recursive: true });
    mkdirSync(dir);
    await receive([directory('.', 0o711), file('a')]);
    expect(lstatSync(dir).mode & 0o777).toBe(0o711);
  });

  it('a directory may come after its files, and twice', async () => {
    await receive([file('d/a'), directory('d', 0o700), directory('d', 0o711)]);
    expect(lstatSync(join(dir, 'd')).mode & 0o777).toBe(0o711);
  });

  it.each([
    ['below a link', [link('d', '..'), file('d/escaped')]],
    ['over a link', [link('a', '../escaped'), file('a')]],
    ['a link over a file', [file('a'), link('a', '../escaped')]],
    ['below a file', [file('a'), file('a/b')]],
    ['a file twice', [file('a'), file('a')]],
    ['a directory over a file', [file('a'), directory('a')]],
    ['a file over a directory', [directory('a'), file('a')]],
  ])('refuses %s, and writes nothing beside its directory', async (_, members) => {
    await refused(members);
    expect(readdirSync(base)).toEqual(['context']);
  });

  it('bounds entries, bytes and depth', async () => {
    const limits = { ...CONTEXT_LIMITS, entriesMax: 3, bytesMax: 10, depthMax: 3 };
    await refused([file('a/b/c/d')], limits);
    rmSync(dir, { recursive: true });
    mkdirSync(dir);
    await refused([file('a'), file('b'), file('c')], limits);
    rmSync(dir, { recursive: true });
    mkdirSync(dir);
    await refused([directory('a/b/c/d')], { ...limits, entriesMax: 100, depthMax: 2 });
  });
});
