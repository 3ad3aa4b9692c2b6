/** Workspaces against the real file system and real processes. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { newSandboxId } from '../../src/base/ids.ts';
import { silentLog } from '../../src/base/log.ts';
import { resolveHome } from '../../src/home.ts';
import { makeWorkspace, reclaim } from '../../src/runtime/workspace.ts';

let runDir = '';
beforeEach(async () => {
  runDir = await mkdtemp(join(tmpdir(), 'nv-run-'));
});
afterEach(() => rm(runDir, { recursive: true, force: true }));

/** A process that sleeps; its end is awaited by `end`. */
function sleeper() {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  const exited = once(child, 'exit');
  return {
    pid: child.pid ?? 0,
    exited,
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
    const { makeWorkspace } = await import(${JSON.stringify(join(import.meta.dirname, '../../src/runtime/workspace.ts'))});
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
  it('makeWorkspace: private directory, removed with all that is in it', async () => {
    const workspace = await makeWorkspace(runDir, newSandboxId());
    expect((await stat(workspace.dir)).mode & 0o777).toBe(0o700);
    await writeFile(workspace.overlayPath, 'x');
    await workspace.remove();
    expect(await readdir(runDir)).toEqual([]);
  });

  it('reclaim: leaves the sandboxes of living processes alone', async () => {
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

  it('reclaim: never ends a process that only has the pid of a dead VMM', async () => {
    const vmm = sleeper();
    const id = await orphan(vmm.pid);
    // The record now names another start time, as if the pid had been used again.
    const path = join(runDir, id, 'owner.json');
    const record = JSON.parse(await readFile(path, 'utf8'));
    record.vmm.startTicks = '1';
    await writeFile(path, JSON.stringify(record));
    expect(await reclaim(runDir, silentLog)).toBe(1);
    expect(() => process.kill(vmm.pid, 0)).not.toThrow();
    await vmm.end();
  });

  it('reclaim: a directory without a readable owner goes when it is no longer young', async () => {
    const young = newSandboxId();
    await mkdir(join(runDir, young));
    expect(await reclaim(runDir, silentLog)).toBe(0);
    await writeFile(join(runDir, young, 'owner.json'), '{ half');
    expect(await reclaim(runDir, silentLog)).toBe(0);
    expect(await readdir(runDir)).toEqual([young]);
  });

  it('reclaim: touches nothing that has another name', async () => {
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
