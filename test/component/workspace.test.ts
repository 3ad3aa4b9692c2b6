/** Workspaces against the real file system and real processes. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmod,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readConfig } from '../../src/base/config.ts';
import { daemonSocket, requireRunDir, resolveHome } from '../../src/base/home.ts';
import { newSandboxId } from '../../src/base/ids.ts';
import { silentLog } from '../../src/base/log.ts';
import { openDaemon, openDaemonIfRunning } from '../../src/cli/library/daemon.ts';
import { makeWorkspace, reclaim } from '../../src/host/runtime/workspace.ts';
import { requiresRoot } from '../support/requires.ts';

let runDir = '';
beforeEach(async () => {
  runDir = await mkdtemp(join(tmpdir(), 'nv-run-'));
});
afterEach(() => rm(runDir, { recursive: true, force: true }));

/** A process that sleeps; `end` waits for its exit. */
function sleeper() {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  const exited = once(child, 'exit');
  return {
    pid: child.pid ?? 0,
    exited,
    isRunning: () => child.exitCode === null && child.signalCode === null,
    end: async () => {
      child.kill('SIGKILL');
      await exited;
    },
  };
}

/** Makes a workspace in a process that is then killed without a chance to clean up. */
async function orphan(vmmPid: number | null): Promise<string> {
  const id = newSandboxId();
  const code = `
    const { makeWorkspace } = await import(${JSON.stringify(join(import.meta.dirname, '../../src/host/runtime/workspace.ts'))});
    const workspace = await makeWorkspace(process.argv[1], process.argv[2]);
    if (process.argv[3] !== '0') await workspace.recordVmm(Number(process.argv[3]));
    process.kill(process.pid, 'SIGKILL');
  `;
  const argv = ['--input-type=module', '-e', code, runDir, id, String(vmmPid ?? 0)];
  const child = spawn(process.execPath, argv, { stdio: 'ignore' });
  const [, signal] = await once(child, 'exit');
  expect(signal).toBe('SIGKILL');
  return id;
}

describe('workspace', () => {
  it('makeWorkspace: private directory, removed with its contents', async () => {
    const workspace = await makeWorkspace(runDir, newSandboxId());
    expect((await stat(workspace.dir)).mode & 0o777).toBe(0o700);
    await writeFile(workspace.overlayPath, 'x');
    await workspace.remove();
    expect(await readdir(runDir)).toEqual([]);
  });

  requiresRoot().it('remove: an owner that is killed meanwhile leaves its record', async () => {
    const workspace = await makeWorkspace(runDir, newSandboxId());
    const held = join(workspace.dir, 'held');
    await mkdir(held);
    const run = promisify(execFile);
    await run('mount', ['-t', 'tmpfs', 'none', held]);
    try {
      await expect(workspace.remove()).rejects.toThrow('EBUSY');
      expect((await readdir(workspace.dir)).toSorted()).toEqual(['held', 'owner.json']);
    } finally {
      await run('umount', [held]);
    }
    await workspace.remove();
    expect(await readdir(runDir)).toEqual([]);
  });

  requiresRoot().it('makeWorkspace: on a full disk it leaves no directory in the way of the next try', async () => {
    const id = newSandboxId();
    const module = JSON.stringify(join(import.meta.dirname, '../../src/host/runtime/workspace.ts'));
    const code = `
      const { readdir } = await import('node:fs/promises');
      const { makeWorkspace } = await import(${module});
      const [, runDir, id] = process.argv;
      const codes = [];
      for (const _try of [1, 2]) await makeWorkspace(runDir, id).catch((error) => codes.push(error.code));
      console.log(JSON.stringify({ codes, left: await readdir(runDir) }));
    `;
    // Its root and one directory are all that this file system can hold.
    const run = 'exec "$0" --input-type=module -e "$1" "$2" "$3"';
    const mounted = `mount -t tmpfs -o nr_inodes=2,mode=0700 none "$2" && ${run}`;
    const argv = ['--mount', '--propagation', 'private', 'sh', '-c', mounted, process.execPath, code, runDir, id];
    const { stdout } = await promisify(execFile)('unshare', argv);
    expect(JSON.parse(stdout)).toEqual({ codes: ['ENOSPC', 'ENOSPC'], left: [] });
  });

  it('reclaim: leaves sandboxes of live processes alone', async () => {
    const id = newSandboxId();
    const vmm = sleeper();
    const workspace = await makeWorkspace(runDir, id);
    await workspace.recordVmm(vmm.pid);
    expect(await reclaim(runDir, silentLog)).toBe(0);
    expect(await readdir(runDir)).toEqual([id]);
    expect(() => process.kill(vmm.pid, 0)).not.toThrow();
    await vmm.end();
  });

  it('reclaim: ends the VMM and removes the directory of a killed owner', async () => {
    const vmm = sleeper();
    const id = await orphan(vmm.pid);
    expect(await readdir(runDir)).toEqual([id]);
    expect(await reclaim(runDir, silentLog)).toBe(1);
    const [, signal] = await vmm.exited;
    expect(signal).toBe('SIGKILL');
    expect(await readdir(runDir)).toEqual([]);
  });

  it('reclaim: never kills a process that only has the pid of a dead VMM', async () => {
    const vmm = sleeper();
    const id = await orphan(vmm.pid);
    // The record now names another start time, as if the pid had been reused.
    const path = join(runDir, id, 'owner.json');
    const record = JSON.parse(await readFile(path, 'utf8'));
    record.vmm.startTicks = '1';
    await writeFile(path, JSON.stringify(record));
    expect(await reclaim(runDir, silentLog)).toBe(1);
    expect(() => process.kill(vmm.pid, 0)).not.toThrow();
    await vmm.end();
  });

  it('reclaim: keeps a young directory without a readable owner', async () => {
    const young = newSandboxId();
    await mkdir(join(runDir, young));
    expect(await reclaim(runDir, silentLog)).toBe(0);
    await writeFile(join(runDir, young, 'owner.json'), '{ half');
    expect(await reclaim(runDir, silentLog)).toBe(0);
    expect(await readdir(runDir)).toEqual([young]);
  });

  it('reclaim: ignores entries with other names', async () => {
    await mkdir(join(runDir, 'something-else'));
    await utimes(join(runDir, 'something-else'), 0, 0);
    expect(await reclaim(runDir, silentLog)).toBe(0);
    expect(await readdir(runDir)).toEqual(['something-else']);
  });

  it('resolveHome: a long home gets a short directory for its sockets', () => {
    const long = resolveHome(`/tmp/${'x'.repeat(100)}`);
    expect(long.cacheDir.startsWith(long.dir)).toBe(true);
    expect(`${long.runDir}/${'a'.repeat(20)}/v.vhost_65535`.length).toBeLessThan(108);
    expect(resolveHome('/tmp/h').runDir).toBe('/tmp/h/run');
    expect(resolveHome(`/tmp/${'x'.repeat(100)}`).runDir).toBe(long.runDir);
  });
});

describe('a run directory in the temporary directory', () => {
  const UNSAFE = { code: 'run_dir_unsafe', remedy: expect.stringContaining('NEUROVISOR_HOME') };

  /** A home with a long path; its run directory, here missing, goes after the test. */
  function longHome() {
    const home = resolveHome(`/tmp/${'x'.repeat(100)}-${newSandboxId()}`);
    return {
      ...home,
      config: readConfig({ NEUROVISOR_HOME: home.dir }),
      [Symbol.asyncDispose]: () => rm(home.runDir, { recursive: true, force: true }),
    };
  }

  const prepared: readonly (readonly [string, (runDir: string) => Promise<void>])[] = [
    [
      'others can write to it',
      async (dir) => {
        await mkdir(dir);
        await chmod(dir, 0o777);
      },
    ],
    ['it is a link', (dir) => symlink(runDir, dir)],
    ['it is a dangling link', (dir) => symlink(join(runDir, 'nothing'), dir)],
    ['it is a file', (dir) => writeFile(dir, '')],
  ];

  it.each(prepared)('makeWorkspace, reclaim and clients refuse it: %s', async (_why, prepare) => {
    await using home = longHome();
    await prepare(home.runDir);
    await expect(makeWorkspace(home.runDir, newSandboxId())).rejects.toMatchObject(UNSAFE);
    await expect(reclaim(home.runDir, silentLog)).rejects.toMatchObject(UNSAFE);
    await expect(openDaemon(home.config)).rejects.toMatchObject(UNSAFE);
    await expect(openDaemonIfRunning(home.config)).rejects.toMatchObject(UNSAFE);
  });

  it('clients never connect to a socket prepared by another user', async () => {
    await using home = longHome();
    await mkdir(home.runDir);
    await chmod(home.runDir, 0o777);
    let connections = 0;
    const server = createServer((socket) => {
      connections += 1;
      socket.destroy();
    });
    server.listen(daemonSocket(home));
    await once(server, 'listening');
    await expect(openDaemonIfRunning(home.config)).rejects.toMatchObject(UNSAFE);
    await expect(openDaemon(home.config)).rejects.toMatchObject(UNSAFE);
    server.close();
    await once(server, 'close');
    expect(connections).toBe(0);
  });

  it('reclaim kills no process named by a prepared record', async () => {
    await using home = longHome();
    const victim = sleeper();
    const id = await orphan(victim.pid);
    await mkdir(home.runDir);
    await rename(join(runDir, id), join(home.runDir, id));
    await chmod(home.runDir, 0o777);
    await expect(reclaim(home.runDir, silentLog)).rejects.toMatchObject(UNSAFE);
    expect(victim.isRunning()).toBe(true);
    await victim.end();
  });

  it('a missing one is created private and accepted again', async () => {
    await using home = longHome();
    expect(await reclaim(home.runDir, silentLog)).toBe(0);
    expect(await openDaemonIfRunning(home.config)).toBeNull();
    requireRunDir(home.runDir);
    requireRunDir(home.runDir);
    expect((await stat(home.runDir)).mode & 0o777).toBe(0o700);
  });

  it('in the home it may be a link, as the home is its owner’s', async () => {
    await symlink(runDir, join(runDir, 'run'));
    expect(() => requireRunDir(join(runDir, 'run'))).not.toThrow();
  });
});
