/** `neurovisor doctor --report`: its contents, and what it must never contain. */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readConfig } from '../../src/base/config.ts';
import { type HostReport, reportHost } from '../../src/host/doctor/report.ts';
import { ROOT } from '../support/cli.ts';
import { requiresRoot } from '../support/requires.ts';

const MAIN = join(ROOT, 'src/cli/main.ts');
/** Planted secrets, none of which may be in the output. */
const PLANTED = {
  user: 'plantedalice',
  host: 'plantedhost',
  address: '203.0.113.77',
  key: 'sk-plantedkey',
  folder: 'plantedfolder',
  word: 'plantedoutput',
};

let dir: string;
let home: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-report-'));
  home = join(dir, PLANTED.folder, PLANTED.user);
  mkdirSync(home, { recursive: true });
});
afterEach(() => rmSync(dir, { recursive: true }));

const environment = (): NodeJS.ProcessEnv => ({
  ...process.env,
  HOME: home,
  USER: PLANTED.user,
  LOGNAME: PLANTED.user,
  HOSTNAME: PLANTED.host,
  NEUROVISOR_HOME: join(home, 'nv'),
  NEUROVISOR_UPSTREAM: `http://${PLANTED.address}:1/v1`,
  NEUROVISOR_UPSTREAM_KEY: PLANTED.key,
  NEUROVISOR_API_KEY: PLANTED.key,
  NEUROVISOR_OTLP_ENDPOINT: `http://${PLANTED.address}:4318`,
  OTEL_EXPORTER_OTLP_HEADERS: `authorization=${PLANTED.key}`,
});

function report(env: NodeJS.ProcessEnv, wrapper: readonly string[], ...more: string[]): string {
  const [command = '', ...args] = [...wrapper, process.execPath, MAIN, 'doctor', '--report', ...more];
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', env });
  expect(stderr).toBe('');
  expect(status).toBe(0);
  return stdout;
}

/** A program that prints all planted secrets, and fails. */
function broken(name: string): string {
  const path = join(home, name);
  const words = Object.values(PLANTED).join(' ');
  writeFileSync(path, `#!/bin/sh\necho "${name} ${words} ${path}"; echo "${words} ${path}" >&2; exit 1\n`);
  chmodSync(path, 0o755);
  return path;
}

function expectNothingPlanted(text: string): void {
  for (const word of [...Object.values(PLANTED), dir]) expect(text).not.toContain(word);
}

describe('doctor --report', () => {
  it('report: has versions, processor, KVM, jail and starts, in Markdown and in JSON', () => {
    const env = environment();
    const text = report(env, []);
    expect(text).toMatch(/^### neurovisor doctor --report\n\n\| \| \|\n/);
    expect(text).toMatch(/\| NeuroVisor \| 0\.\S+ \([0-9a-f]{8}\), Node 24\./);
    expect(text).toMatch(/\| starts \| skipped: not set up/);
    expectNothingPlanted(text);
    const json = report(env, [], '-o', 'json');
    const found = JSON.parse(json) as HostReport;
    expect(found.node).toBe(process.versions.node);
    expect(found.processor.cpus).toBeGreaterThan(0);
    expect(['kvm', 'tcg', 'none']).toContain(found.accelerator);
    if (found.kvm.steps.length > 0) expect(found.kvm.steps[0]?.ms).toBeGreaterThan(0);
    expectNothingPlanted(json);
  });

  it('report: repeats no output of broken programs', () => {
    const env = {
      ...environment(),
      NEUROVISOR_FIRECRACKER: broken('firecracker'),
      NEUROVISOR_JAILER: broken('jailer'),
      NEUROVISOR_VMM: 'firecracker',
      PATH: `${home}:${process.env['PATH']}`,
    };
    for (const name of ['bwrap', 'qemu-system-x86_64']) broken(name);
    for (const more of [[], ['-o', 'json']]) expectNothingPlanted(report(env, [], ...more));
  });

  it('report: contains no configured paths, relative or with spaces', () => {
    const env = {
      ...environment(),
      HOME: join(dir, `a (b): ${PLANTED.folder}`),
      NEUROVISOR_HOME: join(dir, `a (b): ${PLANTED.folder}`, 'nv'),
      NEUROVISOR_FIRECRACKER: `${PLANTED.folder}/firecracker`,
      NEUROVISOR_VMM: 'firecracker',
    };
    const text = report(env, []);
    expect(text).toContain("vmm_missing: Firecracker (&lt;path>) can't be used");
    expectNothingPlanted(text);
  });

  requiresRoot().it('report: does not contain the host’s name', () => {
    const named = ['unshare', '--uts', 'sh', '-c', `hostname ${PLANTED.host}; exec "$@"`, 'sh'];
    const { HOSTNAME: _, ...env } = environment();
    expectNothingPlanted(report(env, named));
  });

  it('report: ends if it is canceled while it probes', async () => {
    const signal = AbortSignal.abort(new Error('canceled'));
    const said: string[] = [];
    const options = { config: readConfig(environment()), env: {}, say: (text: string) => said.push(text) };
    await expect(reportHost({ ...options, signal })).rejects.toThrow('canceled');
    expect(said).toEqual(['probing']);
  });

  it('report: is no audit', () => {
    const argv = [MAIN, 'doctor', '--report', '--security'];
    const { status, stderr } = spawnSync(process.execPath, argv, { encoding: 'utf8' });
    expect(status).toBe(2);
    expect(stderr).toMatch(/--report.*--security/);
  });
});
