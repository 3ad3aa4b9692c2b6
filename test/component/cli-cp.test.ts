/** `cp` both ways on a real guest agent, and from a guest that lies about its files. */
import { execFileSync } from 'node:child_process';
import {
  chmod,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { copyOut } from '../../src/artifacts/transfer/copy-out.ts';
import { listThere } from '../../src/artifacts/transfer/tree-there.ts';
import { cp } from '../../src/cli/commands/cp.ts';
import { requireCopies } from '../../src/cli/transfer/copies.ts';
import type { FileEntry, Guest } from '../../src/machine/guest/link.ts';
import { FakeControlPlane } from '../support/fake-control-plane.ts';
import { testCli } from '../support/test-cli.ts';

let here: string;

beforeEach(async () => {
  here = await mkdtemp(join(tmpdir(), 'nv-cp-'));
});
afterEach(async () => {
  await rm(here, { recursive: true });
});

/** Files with modes, an empty directory, an unreadable one, and links of all kinds. */
async function makeTree(dir: string): Promise<void> {
  await mkdir(join(dir, 'sub/empty'), { recursive: true });
  await writeFile(join(dir, 'script.sh'), '#!/bin/sh\n', { mode: 0o755 });
  await writeFile(join(dir, 'sub/secret'), Buffer.from([0, 255, 10]), { mode: 0o600 });
  await writeFile(join(dir, 'sub/ümläut file'), 'text');
  await writeFile(join(dir, 'empty'), '');
  await symlink('sub/secret', join(dir, 'link'));
  await symlink('/etc/passwd', join(dir, 'sub/absolute'));
  await symlink('nowhere', join(dir, 'broken'));
  await symlink('sub', join(dir, 'to-directory'));
  await chmod(join(dir, 'sub'), 0o500);
}

/** Name → type, mode and content, for comparison. */
async function treeOf(dir: string): Promise<Record<string, string>> {
  const tree: Record<string, string> = {};
  for (const name of await readdir(dir, { recursive: true })) {
    const path = join(dir, name);
    const info = await lstat(path);
    const mode = (info.mode & 0o777).toString(8);
    if (info.isSymbolicLink()) tree[name] = `-> ${await readlink(path)}`;
    else if (info.isDirectory()) tree[name] = `directory ${mode}`;
    else tree[name] = `${mode} ${(await readFile(path)).toString('hex')}`;
  }
  return tree;
}

describe('cp', () => {
  let control: FakeControlPlane;
  let id: string;
  let there: string;

  beforeAll(async () => {
    control = new FakeControlPlane();
    ({ id } = await control.create({}));
  });
  afterAll(async () => {
    await control[Symbol.asyncDispose]();
  });
  beforeEach(async () => {
    there = join(await control.dirOf(id), 'cp');
    await mkdir(there);
  });
  afterEach(async () => {
    await rm(there, { recursive: true });
  });

  const copy = async (from: string, to: string, options: { stdin?: string } = {}) => {
    const test = testCli(options);
    expect(await cp(test.cli, control, [from, to], {})).toBe(0);
    return test;
  };

  it('keeps modes, links and names of a directory, in and out', async () => {
    const original = join(here, 'tree');
    await mkdir(original);
    await makeTree(original);
    await copy(original, `${id}:${there}`);
    expect(await treeOf(join(there, 'tree'))).toEqual(await treeOf(original));
    await mkdir(join(here, 'back'));
    await copy(`${id}:${there}/tree`, join(here, 'back'));
    expect(await treeOf(join(here, 'back/tree'))).toEqual(await treeOf(original));
    // A second copy overwrites the first.
    await copy(`${id}:${there}/tree`, join(here, 'back'));
    expect(await treeOf(join(here, 'back/tree'))).toEqual(await treeOf(original));
    await copy(original, `${id}:${there}`);
    expect(await treeOf(join(there, 'tree'))).toEqual(await treeOf(original));
  });

  it('of a pause of another version: says that it boots', async () => {
    const info = await control.get(id);
    await writeFile(join(there, 'file'), 'content');
    const get = vi.spyOn(control, 'get');
    get.mockResolvedValue({ ...info, status: 'paused', foreignPause: '0.1.0 (01234567)' });
    const foreign = await copy(`${id}:${there}/file`, join(here, 'first'));
    get.mockRestore();
    const saying = `Boot the disk of ${id}, paused by NeuroVisor 0.1.0 (01234567), to read its files`;
    expect(foreign.stderr()).toContain(saying);
    expect(await readFile(join(here, 'first'), 'utf8')).toBe('content');
    const running = await copy(`${id}:${there}/file`, join(here, 'second'));
    expect(running.stderr()).not.toContain('Boot');
  });

  it('copies the contents of a directory with SOURCE/., both ways', async () => {
    await mkdir(join(here, 'source'));
    await writeFile(join(here, 'source/a'), '1');
    await copy(`${here}/source/.`, `${id}:${there}`);
    expect(await readdir(there)).toEqual(['a']);
    await mkdir(join(here, 'target'));
    await copy(`${id}:${there}/.`, join(here, 'target'));
    expect(await readdir(join(here, 'target'))).toEqual(['a']);
  });

  it('copies a file into a directory, to a new name, over an existing file', async () => {
    await writeFile(join(here, 'a.txt'), 'first', { mode: 0o640 });
    await copy(join(here, 'a.txt'), `${id.slice(0, 6)}:${there}`);
    await copy(join(here, 'a.txt'), `${id}:${there}/b.txt`);
    expect(await treeOf(there)).toEqual({
      'a.txt': `640 ${Buffer.from('first').toString('hex')}`,
      'b.txt': `640 ${Buffer.from('first').toString('hex')}`,
    });
    await writeFile(join(there, 'a.txt'), 'second');
    await copy(`${id}:${there}/a.txt`, join(here, 'a.txt'));
    expect(await readFile(join(here, 'a.txt'), 'utf8')).toBe('second');
    await copy(`${id}:${there}/b.txt`, join(here, 'new/'));
    expect(await readdir(join(here, 'new'))).toEqual(['b.txt']);
  });

  it('copies from standard input and to standard output with -', async () => {
    await copy('-', `${id}:${there}/typed`, { stdin: 'typed text' });
    expect(await readFile(join(there, 'typed'), 'utf8')).toBe('typed text');
    expect((await copy(`${id}:${there}/typed`, '-')).stdout()).toBe('typed text');
  });

  it('copies a file of reported size 0 completely', async () => {
    await copy(`${id}:/proc/self/status`, join(here, 'status'));
    expect(await readFile(join(here, 'status'), 'utf8')).toContain('Pid:');
  });

  it('shows the progress of large files, and leaves no partial file after a failure', async () => {
    await writeFile(join(here, 'big'), Buffer.alloc(9 * 1024 * 1024, 7));
    const { stderr } = await copy(join(here, 'big'), `${id}:${there}/big`);
    expect(stderr()).toContain('Copy ');
    expect((await stat(join(there, 'big'))).size).toBe(9 * 1024 * 1024);
    const { cli } = testCli();
    cli.handleSignal('SIGTERM');
    await expect(cp(cli, control, [`${id}:${there}/big`, join(here, 'out')], {})).rejects.toThrow();
    expect(await readdir(here)).toEqual(['big']);
  });

  it.each([
    ['two paths here', 'a', 'b'],
    ['two sandboxes', 'aaa:x', 'bbb:y'],
    ['a path that is not there', './no-such', 'ID:x'],
    ['an empty path', '', 'ID:x'],
    ['a socket or device', '/dev/null', 'ID:x'],
  ])('%s is refused', async (_what, from, to) => {
    const { cli } = testCli();
    await expect(cp(cli, control, [from, to.replace('ID', id)], {})).rejects.toMatchObject({ code: 'usage' });
  });

  it('rejects a missing local path before any request', async () => {
    const nowhere = join(here, 'nothing');
    const unasked = new FakeControlPlane({
      before: (method) => {
        throw new Error(`${method} was called`);
      },
    });
    await expect(cp(testCli().cli, unasked, [nowhere, 'abc:'], {})).rejects.toMatchObject({
      code: 'usage',
      message: `${nowhere}: no such file or directory`,
    });
  });

  it('run --copy: rejects a missing local path before a sandbox starts', async () => {
    const nowhere = join(here, 'nothing');
    await expect(requireCopies([here, `${nowhere}:/there`])).rejects.toMatchObject({
      code: 'usage',
      message: `${nowhere}: no such file or directory`,
    });
  });

  it('reports a missing path in the guest', async () => {
    const { cli } = testCli();
    await expect(cp(cli, control, [`${id}:${there}/none`, join(here, 'x')], {})).rejects.toMatchObject({
      code: 'not_found',
    });
    expect(await readdir(here)).toEqual([]);
  });
});

describe('cp from a hostile guest', () => {
  const entry = (name: string, more: Partial<FileEntry> = {}): FileEntry => ({
    name,
    path: `/src/${name}`,
    type: 'file',
    bytes: 4,
    mode: 0o644,
    owner: 'user',
    group: 'user',
    modifiedMs: 0,
    symlinkTarget: null,
    ...more,
  });
  const directory = (name: string): FileEntry => entry(name, { type: 'directory', mode: 0o755 });

  /** @param lists entries that the guest reports for each of its directories */
  const guestWith = (root: FileEntry, lists: Record<string, FileEntry[]>): Guest => {
    const files = {
      stat: async () => root,
      list: async (path: string) => lists[path] ?? [],
      read: async () => Readable.from([Buffer.from('evil')]),
    };
    return { files } as unknown as Guest;
  };

  const out = async (guest: Guest, target: string): Promise<void> => {
    await copyOut(guest, '/src', target);
  };

  it.each(['../escape', '..', '.', '', '/etc/escape', 'a/b', 'nul\0', 'bad\udc80'])(
    'rejects a file named %j and writes nothing',
    async (name) => {
      const guest = guestWith(directory('src'), { '/src': [entry('fine'), entry(name)] });
      await mkdir(join(here, 'in'));
      await expect(out(guest, join(here, 'in'))).rejects.toMatchObject({ code: 'hostile_name' });
      expect(await treeOf(here)).toEqual({ in: 'directory 755' });
    },
  );

  it.each([
    ['another directory', directory('.ssh')],
    ['another file', entry('.bashrc')],
    ['a path that ends in ..', entry('..')],
  ])('uses the requested name when the guest answers %s', async (_what, root) => {
    await mkdir(join(here, 'in'));
    const lists = { '/src': [entry('authorized_keys')] };
    await out(guestWith(root, lists), join(here, 'in'));
    expect(await readdir(join(here, 'in'))).toEqual(['src']);
  });

  it('never makes the source itself a link', async () => {
    await mkdir(join(here, 'outside'));
    const root = entry('src', { type: 'symlink', symlinkTarget: join(here, 'outside') });
    await expect(out(guestWith(root, {}), join(here, 'out'))).rejects.toMatchObject({ code: 'invalid_source' });
    expect(await readdir(here)).toEqual(['outside']);
  });

  it('never follows a target that is a link', async () => {
    await mkdir(join(here, 'outside'));
    await symlink(join(here, 'outside'), join(here, 'out'));
    const guest = guestWith(directory('src'), { '/src': [entry('evil')] });
    await expect(out(guest, join(here, 'out'))).rejects.toMatchObject({ code: 'in_the_way' });
    await expect(out(guestWith(entry('src'), {}), join(here, 'out'))).rejects.toMatchObject({ code: 'in_the_way' });
    expect(await readdir(join(here, 'outside'))).toEqual([]);
    // The slash selects the directory behind the link.
    await out(guest, join(here, 'out/'));
    expect(await readdir(join(here, 'outside'))).toEqual(['src']);
  });

  it('never follows a directory that becomes a link during the copy', async () => {
    await mkdir(join(here, 'outside'));
    const guest = guestWith(directory('src'), { '/src': [directory('a')], '/src/a': [entry('evil')] });
    const files = guest.files as { read: Guest['files']['read'] };
    const read = files.read;
    files.read = async (path, options) => {
      await rename(join(here, 'in/a'), join(here, 'in/b'));
      await symlink(join(here, 'outside'), join(here, 'in/a'));
      return await read(path, options);
    };
    await expect(out(guest, join(here, 'in'))).rejects.toMatchObject({ code: 'in_the_way' });
    expect(await readdir(join(here, 'outside'))).toEqual([]);
  });

  it('never writes through a link that the guest also lists as a directory', async () => {
    await mkdir(join(here, 'outside'));
    const link = entry('a', { type: 'symlink', symlinkTarget: join(here, 'outside') });
    const guest = guestWith(directory('src'), { '/src': [link, directory('a')], '/src/a': [entry('evil')] });
    await expect(out(guest, join(here, 'in'))).rejects.toMatchObject({ code: 'hostile_name' });
    expect(await readdir(join(here, 'outside'))).toEqual([]);
  });

  it('never follows a link that an earlier copy left', async () => {
    await mkdir(join(here, 'outside'));
    await mkdir(join(here, 'in'));
    await writeFile(join(here, 'outside/kept'), 'mine');
    const links = [
      entry('a', { type: 'symlink', symlinkTarget: join(here, 'outside') }),
      entry('b', { type: 'symlink', symlinkTarget: join(here, 'outside/kept') }),
    ];
    await out(guestWith(directory('src'), { '/src': links }), join(here, 'in'));
    const second = guestWith(directory('src'), { '/src': [directory('a'), entry('b')], '/src/a': [entry('evil')] });
    await expect(out(second, join(here, 'in'))).rejects.toMatchObject({ code: 'in_the_way' });
    // A file takes the link's place instead of following it.
    await out(guestWith(directory('src'), { '/src': [entry('b')] }), join(here, 'in'));
    expect(await readFile(join(here, 'in/src/b'), 'utf8')).toBe('evil');
    expect(await treeOf(join(here, 'outside'))).toEqual({
      kept: expect.stringContaining(Buffer.from('mine').toString('hex')),
    });
  });

  it.each(['', 'in'])('does not replace an existing pipe or device, such as /dev/null: %j', async (sub) => {
    const target = join(here, sub, 'src');
    if (sub !== '') await mkdir(join(here, sub));
    execFileSync('mkfifo', [target]);
    const guest = guestWith(entry('src'), {});
    await expect(out(guest, sub === '' ? target : join(here, sub))).rejects.toMatchObject({
      code: 'in_the_way',
      message: `${target} exists and is not a file`,
    });
    expect((await lstat(target)).isFIFO()).toBe(true);
  });

  it('keeps the mode of an existing directory', async () => {
    await mkdir(join(here, 'in/a'), { recursive: true, mode: 0o750 });
    const open = { type: 'directory', mode: 0o777 } as const;
    const lists = { '/src/.': [entry('a', open), entry('b', open)] };
    await copyOut(guestWith(entry('src', open), lists), '/src/.', join(here, 'in'));
    expect(await treeOf(here)).toEqual({ in: 'directory 750', 'in/a': 'directory 750', 'in/b': 'directory 755' });
  });

  it('gives up on endlessly nested directories, and on endless pipes', async () => {
    const endless = guestWith(directory('src'), {});
    Object.assign(endless.files, { list: async () => [directory('d'.repeat(255))] });
    await expect(out(endless, join(here, 'out'))).rejects.toMatchObject({
      code: 'invalid_source',
      message: expect.stringContaining('100 directories'),
    });
    const pipes = Array.from({ length: 15_000 }, (_, n) => entry(`p${n}`, { type: 'other' }));
    const lists = { '/src': [directory('a'), ...pipes], '/src/a': pipes };
    const root = { entry: directory('src'), from: '/src', path: '' };
    const listing = listThere(guestWith(directory('src'), lists), root, {}, { onOther: () => {} });
    await expect(listing).rejects.toMatchObject({ code: 'invalid_source' });
    expect(await readdir(here)).toEqual([]);
  });

  it('the guest can not make files accessible that the umask here protects', async () => {
    const before = process.umask(0o027);
    try {
      const guest = guestWith(entry('src', { mode: 0o777 }), {});
      await copyOut(guest, '/x', join(here, 'file'));
      expect(((await stat(join(here, 'file'))).mode & 0o777).toString(8)).toBe('750');
      const tree = guestWith(entry('src', { type: 'directory', mode: 0o777 }), { '/x': [] });
      await copyOut(tree, '/x', join(here, 'tree'));
      expect(((await stat(join(here, 'tree'))).mode & 0o777).toString(8)).toBe('750');
    } finally {
      process.umask(before);
    }
  });

  it('ignores mode bits above the permissions', async () => {
    const guest = guestWith(entry('src', { mode: 0o6755 }), {});
    await out(guest, join(here, 'file'));
    expect(((await stat(join(here, 'file'))).mode & 0o7777).toString(8)).toBe('755');
  });
});
