/** `prove xdp` with and without a compiler, and `net latency` on a sandbox. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { newSandboxId } from '../../src/base/ids.ts';
import { silentLog } from '../../src/base/log.ts';
import { readConfig } from '../../src/config.ts';
import type { Proof } from '../../src/prove/proof.ts';
import { prove } from '../../src/prove/prove.ts';
import { cli, ROOT } from '../support/cli.ts';
import { NamespacedProcess } from '../support/net-namespace.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-observe-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe('prove xdp', () => {
  it('holds, with its controls', async () => {
    const [proof] = await prove(['xdp'], {
      config: readConfig({}),
      log: silentLog,
      signal: new AbortController().signal,
    });
    expect(proof?.tried.filter(({ ok }) => !ok)).toEqual([]);
    expect(proof).toMatchObject({ name: 'xdp', holds: true });
    expect(proof?.tried.length).toBe(9);
    expect(proof?.tried.filter(({ what }) => what.startsWith('control'))).toHaveLength(2);
  });

  /** The command where there is no clang. */
  async function withoutCompiler(more: Record<string, string> = {}) {
    const few = mkdtempSync(join(dir, 'few-'));
    for (const name of ['unshare', 'nft', 'dirname', 'readlink', 'uname', 'sha256sum', 'cat'])
      symlinkSync(await which(name), join(few, name));
    const env = { PATH: `${dirname(process.execPath)}:${few}`, ...more };
    const { status, stdout } = await cli(['prove', 'xdp', '-o', 'json'], { env }).result;
    const [proof] = JSON.parse(stdout) as Proof[];
    return { status, tried: proof?.tried ?? [] };
  }

  it('without a compiler, but with programs in the home: holds with those', async () => {
    const { status, tried } = await withoutCompiler();
    expect(tried.filter(({ ok }) => !ok)).toEqual([]);
    expect(status).toBe(0);
  });

  it('without a compiler and programs: unavailable with a reason, and does not hold', async () => {
    const { status, tried } = await withoutCompiler({ NEUROVISOR_HOME: join(dir, 'empty') });
    expect(status).toBe(1);
    expect(tried.at(-1)).toMatchObject({
      seen: expect.stringMatching(/^not available \(no_compiler\): Install clang/),
      ok: false,
    });
  });
});

describe('net latency', () => {
  it('measures a sandbox of another process, beside its metadata drop', async () => {
    const own = ['unshare', '-n', '-m', 'sh', '-c', 'mount -t tmpfs none /run && exec "$@"', 'sh'];
    const fixture = join(import.meta.dirname, '../fixtures/host-network.ts');
    await using stack = new AsyncDisposableStack();
    const owner = stack.adopt(new NamespacedProcess(own, fixture), (each) => each.kill());
    await owner.do('open', '');
    const id = newSandboxId();
    await owner.do('lease', id, { mode: 'open' });
    let ended = false;
    const measured = neurovisor(owner.pid, 'net', 'latency', id.slice(0, 8), '--for', '1s');
    const shown = measured.finally(() => {
      ended = true;
    });
    while (!ended) await owner.do('datagram', id, '10.201.0.1');
    const { status, stdout, stderr } = await shown;
    expect([status, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(new RegExp(`^sandbox +${id}\\ninterface +nv-\\w+, seen by tcx\\n`));
    expect(Number(/^frames +(\d+) out/m.exec(stdout)?.[1])).toBeGreaterThan(0);
    expect(stdout).toContain('peer: from a packet of the guest to its answer');
    const json = await neurovisor(owner.pid, 'net', 'latency', id, '--for', '10ms', '-o', 'json');
    expect(JSON.parse(json.stdout)).toMatchObject({
      sandbox: id,
      ingress: 'tcx',
      uplink: null,
      paths: { peer: { answered: 0, p50Ns: null, buckets: [] }, forward: { started: 0 } },
    });
    expect(await neurovisor(owner.pid, 'net', 'latency', 'zzz')).toMatchObject({ status: 2 });
  });
});

function which(name: string): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile('which', [name], (error, stdout) => (error ? reject(error) : resolve(stdout.trim())));
  });
}

interface Ended {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs in the network namespace of a process. */
function neurovisor(pid: number, ...args: string[]): Promise<Ended> {
  const enter = ['-t', String(pid), '-n', '-m', join(ROOT, 'neurovisor')];
  const env = { ...process.env, NO_COLOR: '1', NEUROVISOR_HOME: join(dir, 'home') };
  return new Promise((resolve) => {
    execFile('nsenter', [...enter, ...args], { env }, (error, stdout, stderr) => {
      resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}
