/** Build tools and the setup lock, with real processes. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { downloadErofsSource } from '../../src/artifacts/image/erofs-source.ts';
import { withSetupLock } from '../../src/artifacts/image/lock.ts';
import { runTool, whileUnreachable } from '../../src/artifacts/image/tool.ts';
import { errorCode } from '../../src/base/errors.ts';
import { temporaryDirectory, testContext } from '../support/image.ts';

/** False for a zombie, too: a PID 1 may never reap it. */
async function isAlive(pid: number): Promise<boolean> {
  try {
    const status = await readFile(`/proc/${pid}/stat`, 'utf8');
    return !/\) [ZX] /.test(status);
  } catch (error) {
    if (errorCode(error) === 'ENOENT' || errorCode(error) === 'ESRCH') return false;
    throw error;
  }
}

describe('runTool', () => {
  it('returns the last lines of the output, and forwards each line as it arrives', async () => {
    const lines: string[] = [];
    const output = await runTool('sh', ['-c', 'echo one; echo two >&2'], { onLine: (line) => lines.push(line) });
    expect(lines.sort()).toEqual(['one', 'two']);
    expect(output.split('\n')).toHaveLength(2);
  });

  it('reads status lines from descriptor 3', async () => {
    const lines: string[] = [];
    await runTool('sh', ['-c', 'echo status >&3'], { onStatusLine: (line) => lines.push(line) });
    expect(lines).toEqual(['status']);
  });

  it('fails with the last lines of the program', async () => {
    await expect(runTool('sh', ['-c', 'echo no such luck >&2; exit 3'])).rejects.toMatchObject({
      code: 'tool_failed',
      message: expect.stringContaining('exit status 3'),
      cause: expect.objectContaining({ message: 'no such luck' }),
    });
  });

  it('reports a missing program, with a remedy', async () => {
    await expect(runTool('no-such-program-x', [], { missingRemedy: 'Install x.' })).rejects.toMatchObject({
      code: 'tool_missing',
      remedy: 'Install x.',
    });
  });

  it('recognizes a full disk in the output of a program', async () => {
    await expect(runTool('sh', ['-c', 'echo "cc1: write: No space left on device"; exit 1'])).rejects.toMatchObject({
      code: 'disk_full',
    });
  });

  it('reports in one line that a server can not be reached, and what to check', async () => {
    const said = "Err:1 bookworm InRelease\\n  Temporary failure resolving 'deb.example'\\nE: failed";
    await expect(runTool('sh', ['-c', `printf "${said}"; exit 100`])).rejects.toMatchObject({
      code: 'tool_failed',
      message: expect.stringContaining("can't be reached"),
      cause: expect.objectContaining({ message: "Temporary failure resolving 'deb.example'" }),
      remedy: expect.stringContaining('network'),
    });
  });

  it('runs a step again while a server can not be reached, and no other failure', async () => {
    const path = join(await temporaryDirectory(), 'tries');
    const unreachable = `echo x >> ${path}; [ $(wc -l < ${path}) = 3 ] || { echo "no such host"; exit 1; }`;
    const waits: number[] = [];
    const patiently = (script: string, waitsMs: readonly number[]): Promise<string> =>
      whileUnreachable(
        () => runTool('sh', ['-c', script]),
        AbortSignal.any([]),
        (waitMs) => waits.push(waitMs),
        waitsMs,
      );
    await patiently(unreachable, [1, 2, 3]);
    expect(waits).toEqual([1, 2]);
    await expect(patiently('exit 1', [1, 2])).rejects.toMatchObject({ message: expect.stringContaining('status 1') });
    expect(waits).toEqual([1, 2]);
    await expect(patiently('echo no such host; exit 1', [4])).rejects.toMatchObject({
      message: expect.stringContaining("can't be reached"),
    });
    expect(waits).toEqual([1, 2, 4]);
  });

  it('fetches the source of erofs-utils again while the package server can not be reached', async () => {
    const dir = await temporaryDirectory();
    const updates = join(dir, 'updates');
    // By default apt-get update only warns of an unreachable server.
    const apt =
      `case "$*" in *Error-Mode=any*update) echo x >> ${updates}; [ $(wc -l < ${updates}) -gt 1 ] && exit 0;\n` +
      `  echo "Temporary failure resolving 'deb.example'"; exit 100 ;;\n*update) exit 0 ;;\n` +
      `*source*) [ $(wc -l < ${updates}) -gt 1 ] || { echo "put some 'deb-src' URIs"; exit 100; }; echo s > erofs-utils_1.9.4.orig.tar.gz ;; esac\n`;
    await writeFile(join(dir, 'apt-get'), `#!/bin/sh\n${apt}`, { mode: 0o755 });
    vi.stubEnv('PATH', `${dir}:${process.env['PATH']}`);
    onTestFinished(() => void vi.unstubAllEnvs());
    const reports: string[] = [];
    const { signal } = new AbortController();
    const path = await downloadErofsSource({ scratchDir: dir, signal, report: (detail) => reports.push(detail) });
    expect(await readFile(path, 'utf8')).toBe('s\n');
    expect(reports).toEqual(["the package server can't be reached; another try in 5 s"]);
  });

  it('gives up the wait when it is cancelled', async () => {
    const aborter = new AbortController();
    const step = (): Promise<string> => runTool('sh', ['-c', 'echo no such host; exit 1']);
    await expect(
      whileUnreachable(step, aborter.signal, () => aborter.abort(new Error('stop')), [60_000]),
    ).rejects.toThrow();
  });

  it('ends the program and its children when it is cancelled', async () => {
    const aborter = new AbortController();
    const path = join(await temporaryDirectory(), 'pid');
    const script = `sleep 300 & echo $! > ${path}; echo ready; wait`;
    const running = runTool('sh', ['-c', script], { signal: aborter.signal, onLine: () => aborter.abort() });
    await expect(running).rejects.toMatchObject({ code: 'cancelled' });
    const grandchild = Number(await readFile(path, 'utf8'));
    await expect.poll(() => isAlive(grandchild)).toBe(false);
  });

  it('starts nothing if cancelled before', async () => {
    const signal = AbortSignal.abort();
    await expect(runTool('sh', ['-c', 'true'], { signal })).rejects.toMatchObject({ code: 'cancelled' });
  });
});

describe('withSetupLock', () => {
  it('makes a second setup wait for the first, and reports the owner', async () => {
    const first = await testContext();
    const second = { ...(await testContext()), cacheDir: first.cacheDir };
    const order: string[] = [];
    const release = Promise.withResolvers<void>();
    const entered = Promise.withResolvers<void>();
    const one = withSetupLock(first, async () => {
      order.push('first in');
      entered.resolve();
      await release.promise;
      order.push('first out');
    });
    await entered.promise;
    const two = withSetupLock(second, async () => order.push('second in'));
    await expect.poll(() => second.events.map((event) => event.kind)).toEqual(['start']);
    expect(second.events[0]).toMatchObject({ title: 'Wait for another request: set this machine up' });
    release.resolve();
    await Promise.all([one, two]);
    expect(order).toEqual(['first in', 'first out', 'second in']);
    expect(second.events.map((event) => event.kind)).toEqual(['start', 'done']);
  });

  it('is free again after a failure', async () => {
    const context = await testContext();
    const failing = withSetupLock(context, () => Promise.reject(new Error('broke')));
    await expect(failing).rejects.toThrow('broke');
    expect(await withSetupLock(context, async () => 'in')).toBe('in');
  });

  it('is free again when its owner was killed, and removes leftovers of that build', async () => {
    const context = await testContext();
    const script = join(await temporaryDirectory(), 'owner.ts');
    const lockModule = join(context.sourceDir, 'src/artifacts/image/lock.ts');
    const storeModule = join(context.sourceDir, 'src/artifacts/image/prepare.ts');
    await writeFile(
      script,
      `import { withSetupLock } from '${lockModule}';
       import { prepareArtifact } from '${storeModule}';
       const context = { cacheDir: '${context.cacheDir}', sourceDir: '', progress() {}, signal: new AbortController().signal,
         log: { error() {}, warn() {}, info() {}, debug() {} } };
       await withSetupLock(context, () => prepareArtifact(context, { kind: 'slow', title: '', key: 'k',
         files: [], spaceBytes: 1, details: undefined, build: async () => {
           console.log('building'); await new Promise((r) => setTimeout(r, 100_000)); } }));`,
    );
    const owner = spawn(process.execPath, [script], { stdio: ['ignore', 'pipe', 'inherit'] });
    onTestFinished(() => void owner.kill('SIGKILL'));
    await once(owner.stdout, 'data');
    const exited = once(owner, 'exit');
    const waiting = withSetupLock(context, async () => 'in');
    await expect.poll(() => context.events.length).toBe(1);
    expect(context.events[0]).toMatchObject({ title: `Wait for process ${owner.pid}: set this machine up` });
    owner.kill('SIGKILL');
    await exited;
    expect(await waiting).toBe('in');
    expect(await readdir(join(context.cacheDir, 'tmp'))).toEqual([]);
  });

  it('stops waiting when it is cancelled', async () => {
    const first = await testContext();
    const aborter = new AbortController();
    const second = { ...(await testContext(aborter.signal)), cacheDir: first.cacheDir };
    const release = Promise.withResolvers<void>();
    const one = withSetupLock(first, () => release.promise);
    await expect.poll(() => readFile(join(first.cacheDir, 'setup.lock'), 'utf8')).not.toBe('');
    const two = withSetupLock(second, async () => 'never');
    await expect.poll(() => second.events.length).toBe(1);
    aborter.abort();
    await expect(two).rejects.toMatchObject({ code: 'cancelled' });
    release.resolve();
    await one;
  });
});
