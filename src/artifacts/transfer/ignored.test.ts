import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { GIB } from '../../base/units.ts';
import { IgnoreRules } from './ignored.ts';
import { listHere } from './tree-here.ts';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-ignored-'));
});
afterEach(() => rm(dir, { recursive: true }));

async function project(files: Record<string, string>): Promise<void> {
  for (const [name, text] of Object.entries(files)) {
    await mkdir(dirname(join(dir, name)), { recursive: true });
    await writeFile(join(dir, name), text);
  }
}
const listed = async (): Promise<string[]> =>
  (await listHere(dir, new IgnoreRules())).filter(({ type }) => type !== 'directory').map(({ path }) => path);

describe('listHere of a project', () => {
  it('omits caches, environments and .git at any depth', async () => {
    await project({
      'main.py': '',
      '.git/config': '',
      'sub/.git': 'gitdir: elsewhere',
      'sub/__pycache__/a.pyc': '',
      'sub/node_modules/x/index.js': '',
      '.venv/bin/python': '',
      'sub/kept.py': '',
    });
    expect(await listed()).toEqual(['main.py', 'sub/kept.py']);
  });

  it('decides as git does: nested .gitignore files, exceptions, rooted and directory patterns', async () => {
    await project({
      '.gitignore': '*.log\n/build\ndata/\n!keep.log\nsecret*\n',
      'a.log': '',
      'keep.log': '',
      'build/x': '',
      'sub/build/x': '',
      'data/big.csv': '',
      'sub/data': 'a file',
      'sub/.gitignore': '!secret-but-wanted\n*.tmp\n',
      'sub/secret-but-wanted': '',
      'sub/secret': '',
      'sub/x.tmp': '',
      'x.tmp': '',
      // Case-sensitive.
      'A.LOG': '',
      'Build/x': '',
      'sub/Secret': '',
    });
    execFileSync('git', ['init', '-q', dir]);
    const git = execFileSync('git', ['-C', dir, 'ls-files', '-co', '--exclude-standard'], { encoding: 'utf8' });
    expect(await listed()).toEqual(git.trim().split('\n').sort());
  });

  it('.dockerignore matches from the top, as Docker does', async () => {
    await project({
      '.dockerignore': '# a comment\n*.md\n**/*.csv\n/dist\n!README.md\n!./docs/../x\n',
      'a.md': '',
      'README.md': '',
      'docs/a.md': '',
      'docs/a.csv': '',
      'dist/x': '',
      'docs/dist/x': '',
    });
    expect(await listed()).toEqual(['.dockerignore', 'README.md', 'docs/a.md', 'docs/dist/x']);
  });

  it('.dockerignore: applies an exception below an ignored directory, and includes its directories', async () => {
    await project({
      '.dockerignore': '*\n!src/*.py\n!docs\ndocs/drafts\n**/*.log\n',
      'a.txt': '',
      'src/main.py': '',
      'src/data.bin': '',
      'src/deep/x.py': '',
      'docs/a.md': '',
      'docs/a.log': '',
      'docs/drafts/b.md': '',
      'other/x.txt': '',
    });
    const entries = await listHere(dir, new IgnoreRules());
    expect(entries.map(({ path }) => path)).toEqual(['', 'docs', 'docs/a.md', 'src', 'src/main.py']);
  });

  it('.dockerignore does not restore what .gitignore ignores', async () => {
    await project({ '.gitignore': '*.log\n', '.dockerignore': '!a.log\n', 'a.log': '' });
    expect(await listed()).toEqual(['.dockerignore', '.gitignore']);
  });

  it('.dockerignore: names an invalid line', async () => {
    await project({ '.dockerignore': 'a\n[b\n' });
    await expect(listed()).rejects.toMatchObject({
      code: 'invalid_source',
      message: `${join(dir, '.dockerignore')}: line 2 is not a pattern`,
    });
  });

  it('keeps links as links, and omits sockets and pipes', async () => {
    await project({ 'a.txt': '' });
    await symlink('/etc', join(dir, 'link'));
    execFileSync('mkfifo', [join(dir, 'pipe')]);
    const entries = await listHere(dir, new IgnoreRules());
    expect(entries.map(({ type, path, target }) => [type, path, target])).toEqual([
      ['directory', '', undefined],
      ['file', 'a.txt', undefined],
      ['symlink', 'link', '/etc'],
    ]);
    // Anything named with --copy or cp is copied or refused.
    await expect(listHere(dir, null)).rejects.toMatchObject({ code: 'invalid_source' });
  });

  it.each([
    ['a pipe', (path: string) => execFileSync('mkfifo', [path])],
    ['a link to an endless file', (path: string) => symlink('/dev/zero', path)],
    ['a link to itself', (path: string) => symlink('.gitignore', path)],
  ])('does not read rules that are %s of a stranger', async (_, make) => {
    await project({ 'a.txt': '' });
    await make(join(dir, '.gitignore'));
    expect(await listed()).toContain('a.txt');
  });

  it.each(['.gitignore', '.dockerignore'])('refuses a line of %s that could match for hours', async (name) => {
    await project({ [name]: 'x\n**/a/**/a/**/b\n' });
    expect(await listed()).toEqual([name]);
    await project({ [name]: `x\n${'**/a/'.repeat(12)}b\n`, [`${'a/'.repeat(90)}c`]: '' });
    await expect(listed()).rejects.toMatchObject({
      code: 'invalid_source',
      message: `${join(dir, name)}: line 2 has more than 3 times **`,
    });
  });

  it('transfers no name of .git, including those of case-insensitive and Windows file systems', () => {
    const rules = new IgnoreRules();
    for (const name of ['.git', '.GIT', '.Git', 'sub/.gIt', 'git~1', 'GIT~1', '.git.', '.git ']) {
      expect([name, rules.ignores(name, true)]).toEqual([name, true]);
    }
    for (const name of ['.gitignore', '.github', 'git', 'x.git', 'Node_modules']) {
      expect([name, rules.ignores(name, true)]).toEqual([name, false]);
    }
  });

  it('refuses more than 100 nested directories', async () => {
    await project({ [`${'a/'.repeat(101)}c`]: '' });
    await expect(listed()).rejects.toMatchObject({ message: `${dir}: more than 100 directories in each other` });
  });

  it('refuses more than 1 GiB with the remedy, unless it is ignored', async () => {
    await project({ 'big.bin': '' });
    await truncate(join(dir, 'big.bin'), GIB + 1);
    await expect(listed()).rejects.toMatchObject({
      code: 'invalid_source',
      message: `${dir}: more than 1 GiB of files`,
      remedy: expect.stringContaining('.gitignore'),
    });
    await project({ '.gitignore': 'big.bin' });
    expect(await listed()).toEqual(['.gitignore']);
  });
});
