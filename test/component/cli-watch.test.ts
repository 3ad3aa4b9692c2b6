import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { PACKAGE_DIR } from '../../src/base/package-dir.ts';
import { type Watched, watchedBy, watchRuns } from '../../src/cli/commands/run/watch.ts';
import { testCli } from '../support/test-cli.ts';

let dir = '';
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-watch-'));
});
afterEach(() => rm(dir, { recursive: true }));

/** A run that notes its start and end in files. */
const PROGRAM = `
  const fs = require('node:fs'); const note = (text) => fs.appendFileSync(process.argv[1], text + '\\n');
  note('begin');
  process.on('SIGTERM', () => { note('SIGTERM'); process.exit(143); });
  if (process.argv[2] === 'stay') setInterval(() => {}, 1000); else process.exit(3);`;

function started(watched: Watched, how: 'stay' | 'end') {
  const { cli, stderr } = testCli();
  const seen = (text: string) => expect.poll(stderr).toContain(text);
  const log = join(dir, 'log');
  const status = watchRuns(cli, watched, [process.execPath, '-e', PROGRAM, log, how]);
  return { cli, stderr, seen, log, status };
}

const script = (path: string | null, project: string | null = null) => ({ code: '', filename: '', path, project });
const NO_FLAGS = { copy: [] };

describe('watchRuns', () => {
  it('runs again when the file is replaced, as editors do, and ends at a signal', async () => {
    const file = join(dir, 'main.py');
    await writeFile(file, '');
    const { cli, stderr, seen, status } = started(watchedBy(script(file), NO_FLAGS, []), 'end');
    await seen('ended with status 3; waiting for a change');
    await writeFile(join(dir, 'other.py'), '');
    await writeFile(join(dir, '.main.py.swp'), '');
    await rename(join(dir, 'other.py'), file);
    await seen('main.py has changed');
    await expect.poll(() => stderr().match(/ended with status 3/g)?.length).toBe(2);
    cli.handleSignal('SIGINT');
    expect(await status).toBe(130);
    expect(stderr().match(/has changed/g)).toHaveLength(1);
  });

  it('ends a run under way, for files in the directories that come along; not for results and caches', async () => {
    const project = join(dir, 'app');
    await mkdir(join(project, 'deep/__pycache__'), { recursive: true });
    const outs = [{ spec: '', path: 'out', host: join(project, 'plots') }];
    const { cli, seen, log, status, stderr } = started(watchedBy(script(null, project), NO_FLAGS, outs), 'stay');

    const lines = async () => (await readFile(log, 'utf8').catch(() => '')).trim().split('\n');
    await expect.poll(lines).toEqual(['begin']);
    await writeFile(join(project, 'deep/__pycache__/a.pyc'), '');
    await writeFile(join(project, 'plots'), '');
    await writeFile(join(project, 'deep/a.py'), '');
    await seen('a.py has changed');
    await expect.poll(lines).toEqual(['begin', 'SIGTERM', 'begin']);
    cli.handleSignal('SIGTERM');
    expect(await status).toBe(143);
    expect(await lines()).toEqual(['begin', 'SIGTERM', 'begin', 'SIGTERM']);
    expect(stderr().match(/has changed/g)).toHaveLength(1);
  });
});

describe('watchedBy', () => {
  it('names the script, its project and what is copied', () => {
    const flags = { copy: ['data:/srv', 'lib'], project: 'p' };
    const outs = [
      { spec: '', path: 'a/b', host: '.' },
      { spec: '', path: 'a', host: 'results' },
    ];
    expect(watchedBy(script('x/main.py', 'x'), flags, outs)).toEqual({
      sources: ['x/main.py', 'x', 'p', 'data', 'lib'],
      written: ['b', 'results'],
    });
  });

  it.each([
    [script(null), NO_FLAGS, 'needs a file'],
    [script('a.py'), { copy: [], sync: true }, '--sync'],
    [script('a.py'), { copy: [], tty: true }, '-it'],
  ])('refuses %j with %j', (of, flags, why) => expect(() => watchedBy(of, flags, [])).toThrow(why));
});

it('run --watch starts the same command without it', async () => {
  const file = join(dir, 'main.py');
  await writeFile(file, '# /// script\n# dependencies = 1\n# ///\n');
  const args = [join(PACKAGE_DIR, 'src/cli/main.ts'), 'run', '--watch', file, '--watch'];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let text = '';
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
    if (text.includes('waiting for a change')) child.kill('SIGTERM');
  });
  expect(await once(child, 'exit')).toEqual([143, null]);
  expect(text).toMatch(/dependencies: must be a list of strings[\s\S]*ended with status/);
});
