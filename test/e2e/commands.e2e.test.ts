/** The other commands as processes: their output for humans and for programs. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cli } from '../support/cli.ts';

describe('doctor', () => {
  it('-o json: lists each capability with verdict, finding and remedy', async () => {
    const { status, stdout } = await cli(['doctor', '-o', 'json']).result;
    const checks = JSON.parse(stdout) as { name: string; verdict: string; remedy: string | null }[];
    expect(checks.map((check) => check.name)).toContain('accelerator');
    for (const { verdict, remedy } of checks) {
      expect(['ok', 'limited', 'missing', 'unused']).toContain(verdict);
      expect(remedy === null).toBe(verdict === 'ok' || verdict === 'unused');
    }
    expect(status).toBe(0);
  });

  it('-o json: verdicts are true, also in an empty home and without a model server', async () => {
    interface Found {
      readonly verdict: string;
      readonly detail: string;
      readonly remedy: string | null;
    }
    const examine = async (env: Record<string, string>): Promise<(name: string) => Found> => {
      const { stdout } = await cli(['doctor', '-o', 'json'], { env }).result;
      const checks = JSON.parse(stdout) as (Found & { readonly name: string })[];
      return (name) => checks.find((check) => check.name === name) ?? expect.fail(`no check "${name}"`);
    };
    const here = await examine({});
    expect(here('node').detail).toContain(process.version);
    expect(here('setup').verdict).toBe('ok');
    expect(here('model server').verdict).toBe('ok');
    expect(here('privileges').verdict).toBe(process.geteuid?.() === 0 ? 'ok' : 'limited');
    const { stdout } = await cli(['setup', '-o', 'json']).result;
    const { accelerator } = JSON.parse(stdout) as { accelerator: string };
    expect(here('accelerator').verdict).toBe(accelerator === 'kvm' ? 'ok' : 'limited');

    const home = await mkdtemp(join(tmpdir(), 'nv-empty-'));
    try {
      const unused = 'http://127.0.0.1:9';
      const empty = await examine({ NEUROVISOR_HOME: home, NEUROVISOR_UPSTREAM: unused });
      expect(empty('setup')).toMatchObject({ verdict: 'limited', detail: 'not set up yet' });
      expect(empty('model server')).toMatchObject({
        verdict: 'missing',
        detail: expect.stringContaining('ECONNREFUSED'),
      });
      expect(empty('node')).toEqual(here('node'));
    } finally {
      await rm(home, { recursive: true });
    }
  });

  it('text: prints a table, then remedies', async () => {
    const { stdout } = await cli(['doctor']).result;
    expect(stdout).toMatch(/^CAPABILITY +VERDICT +FOUND$/m);
    expect(stdout).toMatch(/^vsock device +ok +/m);
  });
});

describe('setup', () => {
  it('-o json: prints all paths, and repeats no work', async () => {
    const { status, stdout, stderr } = await cli(['setup', '-o', 'json']).result;
    expect(JSON.parse(stdout)).toMatchObject({
      accelerator: expect.stringMatching(/^(kvm|tcg)$/),
      kernel: expect.stringContaining('vmlinux'),
      image: expect.stringContaining('rootfs.erofs'),
      models: 'built-in engine',
    });
    expect(stderr).toBe('');
    expect(status).toBe(0);
  });
});

describe('bench', () => {
  it('an unknown benchmark is refused, with the names of the groups', async () => {
    const { status, stderr } = await cli(['bench', 'warp.speed']).result;
    expect(stderr).toContain('unknown benchmark "warp.speed"');
    expect(stderr).toContain('use a group (boot, clone');
    expect(status).toBe(2);
  });

  it('-o json: has name, unit, accelerator, count, percentiles and baseline', async () => {
    const names = ['bridge.request/1', 'bridge.chunk/1'];
    const { stdout } = await cli(['bench', ...names, '--rounds', '1', '-o', 'json']).result;
    const results = JSON.parse(stdout) as { name: string }[];
    expect(results.map(({ name }) => name)).toEqual(names);
    for (const result of results) {
      expect(result).toMatchObject({
        unit: 'ms',
        accelerator: 'none',
        n: expect.any(Number),
        p50: expect.any(Number),
        p95: expect.any(Number),
        baseline: { name: expect.any(String), p50: expect.any(Number), p95: expect.any(Number) },
        ratio: expect.any(Number),
      });
    }
  });
});

describe('--help', () => {
  it.each([
    'run',
    'create',
    'ls',
    'rm',
    'pause',
    'resume',
    'snapshot',
    'fork',
    'exec',
    'shell',
    'cp',
    'ps',
    'serve',
    'host',
    'pool',
    'template',
    'setup',
    'doctor',
    'bench',
    'test',
  ])('%s --help prints usage', async (name) => {
    const { status, stdout } = await cli([name, '--help']).result;
    expect(stdout).toContain(`Usage: neurovisor ${name}`);
    expect(stdout.length).toBeGreaterThan(150);
    expect(status).toBe(0);
  });
});
