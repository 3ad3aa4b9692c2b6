/** `prove xdp` without a compiler and without libbpf, and `net latency` on a sandbox. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Proof } from '../../prove/proof.ts';
import { prove } from '../../prove/prove.ts';
import { readConfig } from '../../src/base/config.ts';
import { newSandboxId } from '../../src/base/ids.ts';
import { silentLog } from '../../src/base/log.ts';
import { ROOT } from '../support/cli.ts';
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

  /** The command in an empty home, where only these programs are in PATH. @param before runs in a mount namespace of its own */
  async function proveIn(few: readonly string[], before: string) {
    const bin = mkdtempSync(join(dir, 'few-'));
    for (const name of few) symlinkSync(await which(name), join(bin, name));
    const PATH = `${dirname(process.execPath)}:${bin}`;
    const env = { ...process.env, PATH, NO_COLOR: '1', NEUROVISOR_HOME: join(dir, 'empty') };
    const main = join(ROOT, 'src/cli/main.ts');
    const command = [process.execPath, main, 'prove', 'xdp', '-o', 'json'];
    const inside = ['-m', '/bin/sh', '-c', `${before}; exec "$@"`, 'sh', ...command];
    const { status, stdout } = await ended(await which('unshare'), inside, env);
    const [proof] = JSON.parse(stdout) as Proof[];
    return { status, tried: proof?.tried ?? [] };
  }
  const FEW = ['unshare', 'nft'];

  it('without a compiler, in an empty home: holds with the shipped programs', async () => {
    const { status, tried } = await proveIn(FEW, ':');
    expect(tried.filter(({ ok }) => !ok)).toEqual([]);
    expect(status).toBe(0);
  });

  it('without libbpf: unavailable with a reason, and does not hold', async () => {
    const hide = 'for each in /usr/lib/*/libbpf.so.1; do mount --bind /dev/null $each; done';
    const { status, tried } = await proveIn([...FEW, 'mount'], hide);
    expect(status).toBe(1);
    expect(tried.at(-1)).toMatchObject({
      seen: expect.stringMatching(/^not available \(no_library\): Install libbpf1/),
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
  return ended('nsenter', [...enter, ...args], env);
}

function ended(program: string, args: readonly string[], env: NodeJS.ProcessEnv): Promise<Ended> {
  return new Promise((resolve) => {
    execFile(program, args, { env }, (error, stdout, stderr) => {
      resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}
