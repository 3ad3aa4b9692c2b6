/** `run` brings results back: `--out`, and `--project --sync` with its review, on a real guest agent. */
import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { cli, ROOT } from '../support/cli.ts';
import { type FakeDaemon, startFakeDaemon } from '../support/fake-daemon.ts';
import { requiresRoot } from '../support/requires.ts';
import { onTerminal } from '../support/terminal.ts';

let dir: string;
/** Home of the guest's user. */
let home: string;
/** Current directory of the command. */
let here: string;
let daemon: FakeDaemon;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-run-results-'));
  home = join(dir, 'home');
  daemon = await startFakeDaemon({ home });
});
beforeEach(async () => {
  await mkdir(home);
  here = await mkdtemp(join(dir, 'here-'));
});
afterEach(async () => {
  await rm(home, { recursive: true });
  expect((await readdir(tmpdir())).filter((name) => name.startsWith('neurovisor-sync-'))).toEqual([]);
});
afterAll(async () => {
  await daemon[Symbol.asyncDispose]();
  await rm(dir, { recursive: true });
});

const run = (args: readonly string[], options: { input?: string } = {}) =>
  cli(['run', ...args], { env: daemon.env, cwd: here, ...options }).result;
const WRITE = `
import os
os.makedirs('results/sub', exist_ok=True)
open('results/a.txt', 'w').write('alpha')
open('results/sub/b.bin', 'wb').write(bytes(range(256)))
`;

describe('run --out', () => {
  it('copies a directory and a file, under their own name and to HOST', async () => {
    const outs = ['--out', 'results', '--out', 'results/sub/b.bin:renamed.bin'];
    const { status, stdout, stderr } = await run([...outs, '-c', `${WRITE}print("done")`]);
    expect([status, stdout, stderr]).toEqual([0, 'done\n', '']);
    expect((await readdir(here, { recursive: true })).sort()).toEqual([
      'renamed.bin',
      'results',
      'results/a.txt',
      'results/sub',
      'results/sub/b.bin',
    ]);
    expect(await readFile(join(here, 'renamed.bin'))).toEqual(Buffer.from([...Array(256).keys()]));
  });

  it('copies the files of a failed or timed out script; the script’s status wins', async () => {
    const failed = await run(['--out', 'results', '-c', `${WRITE}raise SystemExit(7)`]);
    expect(failed.status).toBe(7);
    expect(await readFile(join(here, 'results/a.txt'), 'utf8')).toBe('alpha');
    const slow = `${WRITE}import time; time.sleep(600)`;
    const late = await run(['--timeout', '2s', '--out', 'results:late', '-c', slow]);
    expect(late.status).toBe(124);
    expect(await readdir(join(here, 'late'))).toEqual(['a.txt', 'sub']);
  });

  it('a missing PATH: says where it looked, copies the others, exits with 123', async () => {
    const outs = ['--out', 'nothing', '--out', 'results/a.txt'];
    const { status, stderr } = await run([...outs, '-c', WRITE]);
    expect(status).toBe(123);
    expect(stderr).toBe(
      'neurovisor: --out nothing: no such file or directory in the guest\n' +
        'fix: check that the script writes it; a relative PATH starts at the home of the guest user\n',
    );
    expect(await readdir(here)).toEqual(['a.txt']);
    expect((await run(['--out', 'nothing', '-c', 'raise SystemExit(3)'])).status).toBe(3);
  });

  it('a relative PATH starts at the working directory of the script', async () => {
    await mkdir(join(home, 'sub'));
    const code = 'open("x.txt", "w").write("x")';
    expect((await run(['--workdir', 'sub', '--out', 'x.txt', '-c', code])).status).toBe(0);
    expect(await readFile(join(here, 'x.txt'), 'utf8')).toBe('x');
  });

  it('-o json: lists the copies with their bytes, and the failures', async () => {
    const outs = ['--out', 'results', '--out', 'nothing'];
    const { status, stdout, stderr } = await run(['-o', 'json', ...outs, '-c', WRITE]);
    expect([status, stderr]).toEqual([123, '']);
    expect(JSON.parse(stdout).out).toEqual([
      { path: 'results', host: join(here, 'results'), files: 2, bytes: 261, error: null },
      {
        path: 'nothing',
        host: null,
        files: 0,
        bytes: 0,
        error: { code: 'not_found', message: '--out nothing: no such file or directory in the guest' },
      },
    ]);
  });

  it.each(['SIGINT', 'SIGTERM'] as const)(
    '%s in the middle of a copy: no partial file, status of the signal, nothing left behind',
    async (signal) => {
      const code = 'open("huge.bin", "wb").truncate(64 << 30)';
      const args = ['run', '--out', 'huge.bin', '-c', code];
      const running = cli(args, { env: daemon.env, cwd: here });
      await expect.poll(() => readdir(here)).toEqual([expect.stringMatching(/^\..*\.part$/)]);
      running.kill(signal);
      const { status, stderr } = await running.result;
      expect(status).toBe(signal === 'SIGINT' ? 130 : 143);
      expect(stderr).toBe('neurovisor: --out huge.bin: interrupted\n');
      expect(await readdir(here)).toEqual([]);
      expect(await daemon.control.list()).toEqual([]);
    },
  );

  it('Ctrl-C that the script handles: its results are copied back', async () => {
    const code = `${WRITE}
import time
try:
    print('started', flush=True)
    time.sleep(600)
except KeyboardInterrupt: open('results/last.txt', 'w').write('saved')
`;
    const running = cli(['run', '--out', 'results', '-c', code], { env: daemon.env, cwd: here });
    await running.seen('started');
    running.kill('SIGINT');
    expect((await running.result).status).toBe(0);
    expect(await readFile(join(here, 'results/last.txt'), 'utf8')).toBe('saved');
  });

  it('never follows a link here that leads elsewhere', async () => {
    await mkdir(join(dir, 'outside'), { recursive: true });
    await symlink(join(dir, 'outside'), join(here, 'results'));
    const { status, stderr } = await run(['--out', 'results', '-c', WRITE]);
    expect(status).toBe(123);
    expect(stderr).toContain('results exists and is not a directory');
    expect(await readdir(join(dir, 'outside'))).toEqual([]);
  });

  it('a link to a secret of this machine is copied as a link, or refused by name', async () => {
    const code = 'import os; os.mkdir("d"); os.symlink("/etc/passwd", "d/link")';
    expect((await run(['--out', 'd', '--out', 'd/link:passwd', '-c', code])).status).toBe(123);
    expect(await readlink(join(here, 'd/link'))).toBe('/etc/passwd');
    expect(await readdir(here)).toEqual(['d']);
  });

  it.each([
    [['--out', ''], 'empty path'],
    [['--out', '.'], 'no name for the copy'],
    [['--out', 'results/.'], 'no name for the copy'],
    [['--out', 'a/x', '--out', 'b/x'], 'another --out is copied to'],
    [['--sync'], '--sync needs --project'],
    [['--project', '.', '--yes'], '--yes needs --sync'],
    [['--project', 'nowhere'], 'no such file or directory'],
    [['--project', '.', '--workdir', '/'], 'mutually exclusive'],
  ])('%j: a usage error before anything starts', async (args, text) => {
    const { status, stderr } = await run([...args, '-c', 'print("ran")']);
    expect(stderr).toContain(text);
    expect(status).toBe(2);
  });
});

describe('run, projects', () => {
  beforeEach(async () => {
    await mkdir(join(here, 'app/lib/__pycache__'), { recursive: true });
    await mkdir(join(here, 'app/.git'));
    await writeFile(join(here, 'app/.git/config'), 'secret');
    await writeFile(join(here, 'app/lib/__pycache__/x.pyc'), '');
    await writeFile(join(here, 'app/.gitignore'), '*.csv\n');
    await writeFile(join(here, 'app/big.csv'), '1');
    await writeFile(join(here, 'app/__init__.py'), '');
    await writeFile(join(here, 'app/lib/__init__.py'), 'VALUE = 42\n');
    const show = 'import os, sys; print(VALUE, os.getcwd(), sys.argv, __name__, __package__)\n';
    await writeFile(join(here, 'app/__main__.py'), `from lib import VALUE\n${show}`);
    await writeFile(join(here, 'app/tool.py'), `from .lib import VALUE\n${show}`);
  });

  it('DIR runs its __main__.py with its modules, without what it ignores', async () => {
    const { stdout, stderr } = await run(['app', '--', '-x']);
    expect([stdout, stderr]).toEqual([`42 ${home} ['${home}/app/__main__.py', '-x'] __main__ None\n`, '']);
    expect((await readdir(join(home, 'app'))).sort()).toEqual([
      '.gitignore',
      '__init__.py',
      '__main__.py',
      'lib',
      'tool.py',
    ]);
    expect(await readdir(join(home, 'app/lib'))).not.toContain('x.pyc');
  });

  it('-m runs a module of the current directory, with relative imports', async () => {
    const { stdout, stderr } = await run(['-m', 'app.tool', '--', '-x']);
    expect([stdout, stderr]).toEqual([`42 ${home} ['${home}/app/tool.py', '-x'] __main__ app\n`, '']);
    expect((await run(['-m', 'app.nothing'])).stderr).toContain('No module named app.nothing');
    expect((await run(['-m', 'app; evil'])).status).toBe(2);
    expect((await run(['-c', '1', '-m', 'app'])).status).toBe(2);
  });

  it('an ignored script runs at its place, and a hint names an ignored file that it needs', async () => {
    await writeFile(join(here, 'app/.gitignore'), '*.csv\nscratch.py\n');
    const code = 'from lib import VALUE; print(VALUE, __file__); open("big.csv")';
    await writeFile(join(here, 'app/scratch.py'), code);
    const { status, stdout } = await run(['--project', 'app', 'app/scratch.py']);
    expect([status, stdout]).toEqual([1, `42 ${home}/app/scratch.py\n`]);
    await writeFile(join(here, 'app/__main__.py'), 'open("app/big.csv")');
    const add = 'add: --copy app/big.csv:app/big.csv';
    expect((await run(['app'])).stderr).toContain(add);
    await writeFile(join(here, '.gitignore'), 'app/big.csv');
    await writeFile(join(here, 'app/tool.py'), 'open("app/big.csv")');
    const { stderr } = await run(['-m', 'app.tool']);
    expect(stderr).toContain(add);
  });

  it('a directory that --copy includes is not copied twice', async () => {
    const { stdout } = await run(['--copy', '.', 'app']);
    expect(stdout).toContain(`${home}/app/__main__.py`);
    expect(await readdir(join(home, 'app'))).toContain('big.csv');
  });

  it('a directory without __main__.py, and one of too many files, are refused', async () => {
    await rm(join(here, 'app/__main__.py'));
    const { status, stderr } = await run(['app']);
    expect([status, stderr]).toEqual([2, expect.stringContaining('without __main__.py')]);
  });

  it('--project: the script starts in the copy and finds its modules there', async () => {
    const code = 'import os; print(os.getcwd(), sorted(os.listdir()))';
    const { stdout } = await run(['--project', 'app', '-c', code]);
    expect(stdout).toBe(`${home}/app ['.gitignore', '__init__.py', '__main__.py', 'lib', 'tool.py']\n`);
    expect((await run(['--project', 'app', 'app/__main__.py'])).stdout).toContain(`42 ${home}/app`);
    expect((await run(['--project', '.', '-m', 'app.tool'])).stdout).toContain('__main__ app\n');
  });
});

describe('run --sync', () => {
  let work: string;
  const CHANGE = `
import os
open('a.txt', 'w').write('one\\n2\\nthree\\n')
os.mkdir('new'); open('new/data.bin', 'wb').write(bytes(range(256)))
os.remove('gone.txt')
os.chmod('tool.sh', 0o755)
open('same.txt', 'w').write('same')
os.makedirs('__pycache__'); open('__pycache__/x.pyc', 'w').write('x')
`;
  beforeEach(async () => {
    work = join(here, 'work');
    await mkdir(work);
    await writeFile(join(work, 'a.txt'), 'one\ntwo\nthree\n');
    await writeFile(join(work, 'gone.txt'), 'gone\n');
    await writeFile(join(work, 'same.txt'), 'same');
    await writeFile(join(work, 'tool.sh'), '#!/bin/sh\n', { mode: 0o644 });
  });
  const sync = (code: string, ...more: string[]) => run(['--project', 'work', '--sync', ...more, '-c', code]);

  it('without a terminal: shows list and diff, changes nothing, and says how to apply', async () => {
    const { status, stdout, stderr } = await sync(CHANGE);
    expect([status, stdout]).toEqual([0, '']);
    expect(stderr).toBe(`neurovisor: changes of the script in ${work}:
  changed   a.txt  14 B -> 12 B
  deleted   gone.txt  5 B
  created   new/
  created   new/data.bin  256 B
  changed   tool.sh  10 B -> 10 B  mode 644 -> 755

--- a/a.txt
+++ b/a.txt
@@ -1,3 +1,3 @@
 one
-two
+2
 three

--- a/gone.txt
+++ /dev/null
@@ -1,1 +0,0 @@
-gone
neurovisor: nothing was changed in ${work}; to write the changes, add --yes
`);
    expect((await readdir(work)).sort()).toEqual(['a.txt', 'gone.txt', 'same.txt', 'tool.sh']);
  });

  it('--yes: writes files that changed in content; ignored files stay in the guest', async () => {
    const { status } = await sync(CHANGE, '--yes');
    expect(status).toBe(0);
    expect((await readdir(work, { recursive: true })).sort()).toEqual([
      'a.txt',
      'new',
      'new/data.bin',
      'same.txt',
      'tool.sh',
    ]);
    expect(await readFile(join(work, 'a.txt'), 'utf8')).toBe('one\n2\nthree\n');
    expect((await stat(join(work, 'tool.sh'))).mode & 0o777).toBe(0o755);
    expect((await stat(join(work, 'new'))).mode & 0o777).toBe(0o755);
    expect((await sync('pass', '--yes')).stderr).toBe(`neurovisor: no changes in ${work}\n`);
  });

  it('--copy into the directory: files sent there before are kept', async () => {
    await mkdir(join(work, 'data'));
    await writeFile(join(work, '.gitignore'), 'data/*.csv\n');
    await writeFile(join(work, 'data/README'), 'mine');
    await writeFile(join(work, 'data/big.csv'), '1');
    const { stderr } = await sync('open("data/big.csv")', '--yes', '--copy', 'work/data:work');
    expect(stderr).toBe(`neurovisor: no changes in ${work}\n`);
    expect((await readdir(join(work, 'data'))).sort()).toEqual(['README', 'big.csv']);
  });

  it('--copy into the directory, by any path to it: its file is not copied back', async () => {
    await writeFile(join(here, '.env'), 'SECRET=1');
    const name = 'work/.env';
    for (const to of [name, `~/${name}`, `.//${name}`, `${home}/${name}`]) {
      const { stderr } = await sync('open(".env")', '--yes', '--copy', `.env:${to}`);
      expect([to, stderr]).toEqual([to, `neurovisor: no changes in ${work}\n`]);
    }
    expect(await readdir(work)).not.toContain('.env');
  });

  it('a file that changed here meanwhile is a conflict: named, kept, exit status 123', async () => {
    // The guest of this test is a process of this machine.
    const meanwhile = JSON.stringify(work);
    const code = `${CHANGE}
open(os.path.join(${meanwhile}, 'a.txt'), 'w').write('mine')
open(os.path.join(${meanwhile}, 'gone.txt'), 'w').write('mine, too')
os.mkdir(os.path.join(${meanwhile}, 'new')); open(os.path.join(${meanwhile}, 'new/data.bin'), 'w')
`;
    const { status, stderr } = await sync(code, '--yes');
    expect(status).toBe(123);
    for (const name of ['a.txt', 'gone.txt', 'new/data.bin']) {
      expect(stderr).toContain(`conflict  ${name}: it changed on this machine since it was sent`);
    }
    expect(await readFile(join(work, 'a.txt'), 'utf8')).toBe('mine');
    expect(await readFile(join(work, 'gone.txt'), 'utf8')).toBe('mine, too');
    expect((await stat(join(work, 'new/data.bin'))).size).toBe(0);
    // The others were written.
    expect((await stat(join(work, 'tool.sh'))).mode & 0o777).toBe(0o755);
  });

  it('hostile: links that lead out, pipes and .git are never copied back', async () => {
    const code = `
import os
os.symlink('/etc/passwd', 'absolute')
os.symlink('../outside', 'up')
os.mkdir('d'); os.symlink('../a.txt', 'd/inside')
os.mkfifo('pipe')
os.makedirs('.git/hooks'); open('.git/hooks/post-checkout', 'w').write('evil')
os.makedirs('d/.git'); open('d/.git/config', 'w').write('evil')
`;
    const { status, stderr } = await sync(code, '--yes');
    expect(status).toBe(123);
    expect(stderr).toContain('refused   absolute: a link that leads out of the directory');
    expect(stderr).toContain('refused   up: a link that leads out of the directory');
    expect(stderr).toContain('refused   pipe: neither a file nor a directory');
    expect((await readdir(work, { recursive: true })).sort()).toEqual([
      'a.txt',
      'd',
      'd/inside',
      'gone.txt',
      'same.txt',
      'tool.sh',
    ]);
  });

  it('never writes through a link of this machine', async () => {
    await mkdir(join(dir, 'elsewhere'), { recursive: true });
    await symlink(join(dir, 'elsewhere'), join(work, 'link'));
    const code = `
import os
os.remove('link'); os.mkdir('link'); open('link/evil', 'w').write('x')
`;
    // The link is as it was sent: the guest may replace it, but nothing is written behind it.
    expect((await sync(code, '--yes')).status).toBe(0);
    expect(await readdir(join(dir, 'elsewhere'))).toEqual([]);
    expect(await readdir(join(work, 'link'))).toEqual(['evil']);
  });

  it('a directory that becomes a file, and a file that becomes a directory, are copied back', async () => {
    await mkdir(join(work, 'd'));
    await writeFile(join(work, 'd/x'), 'x');
    const code = `
import os, shutil
shutil.rmtree('d'); open('d', 'w').write('file now')
os.remove('gone.txt'); os.mkdir('gone.txt'); open('gone.txt/y', 'w').write('y')
`;
    expect((await sync(code, '--yes')).status).toBe(0);
    expect(await readFile(join(work, 'd'), 'utf8')).toBe('file now');
    expect(await readFile(join(work, 'gone.txt/y'), 'utf8')).toBe('y');
  });

  it('text from the guest can not control the terminal', async () => {
    const code = `open('e\\x1b[2J', 'w').write('\\x1b]0;owned\\x07\\n')`;
    const { stderr } = await sync(code);
    expect(stderr).toContain('created   e?[2J');
    expect(stderr).toContain('+?]0;owned?');
    expect(stderr).not.toContain('\x1b');
  });

  it('files that --copy put below the directory are no change', async () => {
    await writeFile(join(here, 'data.csv'), '1');
    const { stderr } = await sync('pass', '--copy', 'data.csv:work/data.csv');
    expect(stderr).toBe(`neurovisor: no changes in ${work}\n`);
  });

  it('-o json: reports the changes', async () => {
    const { stdout, stderr } = await sync(CHANGE, '-o', 'json');
    expect(stderr).toBe('');
    expect(JSON.parse(stdout).sync).toMatchObject({
      applied: false,
      error: null,
      refused: [],
      changes: [
        { kind: 'changed', path: 'a.txt', bytes: 12, kept: null },
        { kind: 'deleted', path: 'gone.txt', bytes: null },
        { kind: 'created', path: 'new', bytes: null },
        { kind: 'created', path: 'new/data.bin', bytes: 256 },
        { kind: 'changed', path: 'tool.sh', bytes: 10 },
      ],
    });
  });

  requiresRoot().it('a full and a read-only file system: named, nothing half-written', async () => {
    const big = 'open("big.bin", "wb").write(bytes(4 << 20))';
    const mount = (...args: string[]) => execFileSync('mount', [...args, work]);
    mount('-t', 'tmpfs', '-o', 'size=1m', 'tmpfs');
    try {
      const full = await sync(big, '--yes');
      expect(full.status).toBe(123);
      expect(full.stderr).toContain('big.bin: no space left on the disk of this machine');
      expect(await readdir(work)).toEqual([]);
      const out = await run(['--out', 'big.bin:work/', '-c', big]);
      expect(out.status).toBe(123);
      expect(out.stderr).toContain('no space left on the disk of this machine');
      expect(await readdir(work)).toEqual([]);
      mount('-o', 'remount,ro');
      const readOnly = await sync('open("a", "w")', '--yes');
      expect(readOnly.status).toBe(123);
      expect(readOnly.stderr).toContain('kept a: a: the file system is read-only');
      const outs = ['--out', 'big.bin:work/', '--out', 'big.bin:copy.bin'];
      expect((await run([...outs, '-c', big])).stderr).toContain('the file system is read-only');
      expect((await stat(join(here, 'copy.bin'))).size).toBe(4 << 20);
      mount('-o', 'remount,rw');
      await mkdir(join(here, 'project'));
      const env = { ...daemon.env, TMPDIR: work };
      const args = ['run', '--project', 'project', '--sync', '--yes', '-c', big];
      const staged = await cli(args, { env, cwd: here }).result;
      expect(staged.status).toBe(123);
      const where = `${work}: no space left on the disk of this machine`;
      expect(staged.stderr).toContain(`neurovisor: --sync: ${where}; nothing was changed\nfix: `);
      expect([await readdir(work), await readdir(join(here, 'project'))]).toEqual([[], []]);
    } finally {
      execFileSync('umount', [work]);
    }
  });

  it.each([
    ['y', 'one\n2\nthree\n'],
    ['n', 'one\ntwo\nthree\n'],
    ['', 'one\ntwo\nthree\n'],
  ])('on a terminal, the answer "%s" decides', async (answer, content) => {
    await writeFile(join(here, 'change.py'), "open('a.txt', 'w').write('one\\n2\\nthree\\n')\n");
    const argv = ['run', '--project', work, '--sync', join(here, 'change.py')];
    const terminal = onTerminal([join(ROOT, 'neurovisor'), ...argv], daemon.env);
    await terminal.sees(`Write 1 change to ${work}? [y/N] `);
    terminal.type(`${answer}\r`);
    expect(await terminal.ended).toBe(0);
    expect(terminal.screen()).toContain('terminal restored: True');
    expect(await readFile(join(work, 'a.txt'), 'utf8')).toBe(content);
  });

  it('on a terminal, Ctrl-C at the question changes nothing', async () => {
    const argv = ['run', '--project', work, '--sync', '-c', CHANGE];
    const terminal = onTerminal([join(ROOT, 'neurovisor'), ...argv], daemon.env);
    await terminal.sees('[y/N] ');
    terminal.type('\x03');
    expect(await terminal.ended).toBe(130);
    expect(await readFile(join(work, 'a.txt'), 'utf8')).toBe('one\ntwo\nthree\n');
  });
});
