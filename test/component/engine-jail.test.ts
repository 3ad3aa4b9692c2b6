/** The jail of the built-in engine, with the real bubblewrap and kernel. */
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { engineFiles } from '../../src/host/runtime/engine-files.ts';
import { openEngineJail } from '../../src/host/runtime/engine-jail.ts';
import { startEngine } from '../../src/inference/engine/process.ts';
import { DEFAULT_UIDS } from '../../src/machine/jail/user-ids.ts';
import { cli } from '../support/cli.ts';
import { findModel } from '../support/model.ts';
import { requires, requiresRoot } from '../support/requires.ts';

const isRoot = process.geteuid?.() === 0;
const FIXTURE = join(import.meta.dirname, '../fixtures/engine-jailed.ts');
const NO_CAPABILITY = ['CapPrm', 'CapEff', 'CapBnd', 'CapInh', 'CapAmb'];

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-engine-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

interface Seen {
  readonly answer: string;
  readonly status: string;
  readonly root: readonly string[];
  readonly gaps: readonly string[];
  readonly left: readonly string[];
}

function expectJailed({ status, root }: Seen): void {
  for (const set of NO_CAPABILITY) expect(status).toMatch(new RegExp(`^${set}:\\s0+$`, 'm'));
  expect(status).toMatch(/^NoNewPrivs:\s1$/m);
  expect(status).toMatch(/^Seccomp:\s2$/m);
  for (const name of ['home', 'run', 'boot', 'var', 'mnt']) expect(root).not.toContain(name);
}

requires('model', findModel()).describe('the jailed engine with a real model', (model) => {
  it('openEngineJail: the engine answers, with its own user if root starts it, and leaves nothing behind', () => {
    const told = execFileSync(process.execPath, [FIXTURE, dir, model.path], { encoding: 'utf8' });
    const seen = JSON.parse(told) as Seen;
    expect(seen.answer).toContain('Paris');
    expectJailed(seen);
    expect(seen.left.filter((name) => name !== 'jail')).toEqual([]);
    const uid = Number(/^Uid:\s+(\d+)/m.exec(seen.status)?.[1]);
    if (isRoot) expect(uid).toBeGreaterThanOrEqual(DEFAULT_UIDS.first);
  });

  requiresRoot().it('openEngineJail: without root, only the separate user is missing, and the gap is reported', () => {
    // The host's root, who is an ordinary user in this namespace and owns its files.
    const ordinary = ['--user', '--map-user=1500', '--map-group=1500', '--'];
    const argv = [...ordinary, process.execPath, FIXTURE, dir, model.path];
    const seen = JSON.parse(execFileSync('unshare', argv, { encoding: 'utf8' })) as Seen;
    expect(seen.answer).toContain('Paris');
    expectJailed(seen);
    expect(seen.gaps[0]).toMatch(/run as this user/);
  });
});

describe('openEngineJail', () => {
  const options = () => ({ cacheDir: dir, log: silentLog, id: 'engine', dir });

  it('openEngineJail: off makes no jail', async () => {
    const config = { jail: 'off', jailUids: null, gpu: 'cpu' } as const;
    expect(await openEngineJail({ ...options(), config })).toBeNull();
  });

  requiresRoot().it('openEngineJail: names a model that only root may read, and the remedy', async () => {
    const config = { jail: 'auto', jailUids: null, gpu: 'cpu' } as const;
    const jail = await openEngineJail({ ...options(), config });
    const modelPath = join(dir, 'secret.gguf');
    writeFileSync(modelPath, 'GGUF');
    chmodSync(modelPath, 0o600);
    const socketPath = join(dir, 'e.sock');
    await expect(
      startEngine({
        modelPath,
        modelId: 'm',
        socketPath,
        log: silentLog,
        clock: systemClock,
        ...(jail === null ? {} : { launch: jail.launch }),
      }),
    ).rejects.toMatchObject({
      code: 'engine_crashed',
      cause: { cause: expect.stringContaining("secret.gguf can't be opened by all users") },
      remedy: expect.stringContaining('chmod'),
    });
    expect(existsSync(socketPath)).toBe(false);
    await jail?.close();
  });
});

describe('engineFiles', () => {
  it('engineFiles: shows all files of a model in parts, and nothing beside them', async () => {
    for (const name of ['m-00001-of-00002.gguf', 'm-00002-of-00002.gguf', 'other.gguf']) {
      writeFileSync(join(dir, name), 'GGUF');
    }
    const first = join(dir, 'm-00001-of-00002.gguf');
    const { files } = await engineFiles(process.execPath, first, { gpu: [], libraryPath: '' });
    const shown = files.filter(({ path }) => path.startsWith(dir));
    expect(shown.map(({ path }) => path).sort()).toEqual([first, join(dir, 'm-00002-of-00002.gguf')]);
    expect(files.filter(({ access }) => access === 'write')).toEqual([]);
    expect(files.filter(({ access }) => access === 'device').map(({ path }) => path)).toEqual([
      '/dev/null',
      '/dev/zero',
      '/dev/urandom',
    ]);
  });
});

requiresRoot().describe('prove', () => {
  it('prove engine: holds, each attempt beside its control', async () => {
    const { status, stdout, stderr } = await cli(['prove', 'engine', '-o', 'json']).result;
    const proofs = JSON.parse(stdout) as { tried: { ok: boolean }[] }[];
    expect(
      proofs.flatMap(({ tried }) => tried.filter(({ ok }) => !ok)),
      stderr,
    ).toEqual([]);
    expect(proofs[0]?.tried.length).toBeGreaterThan(50);
    expect(status).toBe(0);
  });
});
