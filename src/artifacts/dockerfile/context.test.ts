import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readArchive } from '../transfer/archive-reader.ts';
import { archiveOf, BuildContext, type Selection } from './context.ts';
import { CONTEXT_LIMITS } from './limits.ts';

describe('BuildContext', () => {
  let dir: string;
  const { signal } = new AbortController();
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'nv-context-'));
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  const write = (path: string, text = path): void => {
    mkdirSync(join(dir, path, '..'), { recursive: true });
    writeFileSync(join(dir, path), text, { mode: 0o644 });
  };
  const select = async (...patterns: string[]) =>
    await (await BuildContext.open(dir, null)).select(7, patterns, [], signal);
  const paths = async (...patterns: string[]) => (await select(...patterns)).entries.map(({ path }) => path);

  it('sources: finds a file, a directory and a pattern, in the order of the archive', async () => {
    for (const path of ['a.txt', 'b.txt', 'd/x', 'd/e/y']) write(path);
    const { names, entries } = await select('d', '*.txt', './d/../b.txt');
    expect(names).toEqual(['d', 'a.txt', 'b.txt', 'b.txt']);
    expect(entries.map(({ path }) => path)).toEqual(['0', '0/e', '0/e/y', '0/x', '1', '2', '3']);
  });

  it('.dockerignore: removes ignored files, but not exceptions', async () => {
    for (const path of ['d/x', 'd/keep', 'e/y', 'f']) write(path);
    write('.dockerignore', 'd\n!d/keep\ne\n.dockerignore\n');
    expect(await paths('.')).toEqual(['0', '0/d', '0/d/keep', '0/f']);
    await expect(select('e/y')).rejects.toThrow('line 7: "e/y" is not in the context');
  });

  it('wildcards: bounds the compared names, including those that do not match', async () => {
    for (let n = 0; n < 10; n += 1) write(`d/${n}`);
    const context = await BuildContext.open(dir, null, { ...CONTEXT_LIMITS, listedMax: 30 });
    const patterns = ['d/[0]', 'd/[1]', 'd/[2]'];
    expect((await context.select(1, patterns, [], signal)).entries).toHaveLength(3);
    await expect(context.select(1, [...patterns, 'd/[3]'], [], signal)).rejects.toThrow(
      'compared with more than 30 names',
    );
  });

  it('rules beside the Dockerfile replace those of the context', async () => {
    write('x');
    write('.dockerignore', 'x');
    write('D.dockerignore', '*.dockerignore\n.dockerignore\n');
    const context = await BuildContext.open(dir, join(dir, 'D'));
    const { entries } = await context.select(1, ['.'], [], signal);
    expect(entries.map(({ path }) => path)).toEqual(['0', '0/x']);
  });

  it('links: keeps links below a source; a source may be a link that stays in the context', async () => {
    write('a', 'text');
    mkdirSync(join(dir, 'd'));
    symlinkSync('/etc/passwd', join(dir, 'd/out'));
    symlinkSync('a', join(dir, 'in'));
    symlinkSync('/etc/passwd', join(dir, 'bad'));
    expect((await select('d')).entries[1]).toMatchObject({ type: 'symlink', target: '/etc/passwd' });
    expect((await select('in')).entries[0]).toMatchObject({ type: 'file', bytes: 4 });
    await expect(select('bad')).rejects.toThrow('leads out of the context');
    await expect(select('../../../etc/passwd')).rejects.toThrow('is not in the context');
  });

  it('digest: covers contents, names and modes, but not times', async () => {
    write('a', '1');
    const before = (await select('a')).digest;
    utimesSync(join(dir, 'a'), 1, 1);
    expect((await select('a')).digest).toBe(before);
    write('a', '2');
    expect((await select('a')).digest).not.toBe(before);
  });

  it('archive: contains the contents, and texts of the Dockerfile itself', async () => {
    write('a', 'content');
    const context = await BuildContext.open(dir, null);
    const selection = await context.select(1, ['a'], [{ name: 'n', content: 'inline' }], signal);
    expect(selection.names).toEqual(['a', 'n']);
    const chunks: Buffer[] = [];
    for await (const chunk of archiveOf(selection)) chunks.push(Buffer.from(chunk));
    const text = Buffer.concat(chunks).toString('latin1');
    expect(text).toContain('content');
    expect(text).toContain('inline');
  });

  it('archive: refuses a file that differs from its digest', async () => {
    const read = async (selection: Selection): Promise<void> => {
      for await (const _ of archiveOf(selection));
    };
    for (const text of ['CONTENT', 'longer content', 'short']) {
      write('a', 'content');
      const selection = await select('a');
      write('a', text);
      await expect(read(selection)).rejects.toMatchObject({ code: 'invalid_source' });
    }
  });

  it('sources: refuses a pipe, and skips one in a directory', async () => {
    mkdirSync(join(dir, 'd'));
    execFileSync('mkfifo', [join(dir, 'd/pipe')]);
    expect(await paths('d')).toEqual(['0']);
    await expect(select('d/pipe')).rejects.toThrow('line 7: d/pipe is not a file');
  });

  it('sources: bounds their number, however they are named', async () => {
    write('a');
    const context = await BuildContext.open(dir, null, { ...CONTEXT_LIMITS, entriesMax: 100 });
    const many = Array.from({ length: 101 }, () => 'a');
    await expect(context.select(1, many, [], signal)).rejects.toThrow('more than 100 files');
  });

  it('does not follow a file that becomes a link after it was listed', async () => {
    write('a', 'content');
    const selection = await select('a');
    rmSync(join(dir, 'a'));
    symlinkSync('/etc/passwd', join(dir, 'a'));
    const read = async (): Promise<void> => {
      for await (const _ of archiveOf(selection));
    };
    await expect(read()).rejects.toThrow('ELOOP');
  });

  it('pack: sends what the rules leave, and refuses a file that becomes a link or longer meanwhile', async () => {
    for (const path of ['a', 'd/x', 'd/ignored']) write(path);
    write('.dockerignore', '**/ignored\n.dockerignore\n');
    const pack = async () => await (await BuildContext.open(dir, null)).pack(signal);
    const read = async ({ archive }: Awaited<ReturnType<typeof pack>>): Promise<string[]> => {
      const seen: string[] = [];
      for await (const { path } of readArchive(archive)) seen.push(path);
      return seen;
    };
    expect(await read(await pack())).toEqual(['', 'a', 'd', 'd/x']);
    const longer = await pack();
    write('a', 'more than before');
    await expect(read(longer)).rejects.toMatchObject({ code: 'context_invalid' });
    const linked = await pack();
    rmSync(join(dir, 'a'));
    symlinkSync('/etc/passwd', join(dir, 'a'));
    await expect(read(linked)).rejects.toMatchObject({ code: 'context_invalid' });
  });

  it('names invalid rules and a missing context in the error', async () => {
    write('.dockerignore', '[');
    await expect(BuildContext.open(dir, null)).rejects.toThrow(/\.dockerignore .*line 1/);
    await expect(BuildContext.open(join(dir, 'none'), null)).rejects.toMatchObject({ code: 'context_invalid' });
  });
});
