/** The other commands as processes: what they print for people and for programs. */
import { describe, expect, it } from 'vitest';
import { cli } from '../support/cli.ts';

describe('doctor', () => {
  it('-o json: every capability with verdict, finding and remedy', async () => {
    const { status, stdout } = await cli(['doctor', '-o', 'json']).result;
    const checks = JSON.parse(stdout) as { name: string; verdict: string; remedy: string | null }[];
    expect(checks.map((check) => check.name)).toContain('accelerator');
    for (const { verdict, remedy } of checks) {
      expect(['ok', 'limited', 'missing', 'unused']).toContain(verdict);
      expect(remedy === null).toBe(verdict === 'ok' || verdict === 'unused');
    }
    expect(status).toBe(0);
  });

  it('text: a table, then what would make it better', async () => {
    const { stdout } = await cli(['doctor']).result;
    expect(stdout).toMatch(/^CAPABILITY +VERDICT +FOUND$/m);
    expect(stdout).toMatch(/^vsock device +ok +/m);
  });
});

describe('setup', () => {
  it('-o json: where everything is; nothing is done again', async () => {
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
  it('an unknown figure is refused with the groups there are', async () => {
    const { status, stderr } = await cli(['bench', 'warp.speed']).result;
    expect(stderr).toContain('unknown benchmark "warp.speed"');
    expect(stderr).toContain('the groups boot, clone');
    expect(status).toBe(2);
  });

  it('-o json: the agreed shape', async () => {
    const { stdout } = await cli(['bench', 'bridge', '--rounds', '1', '-o', 'json']).result;
    const results = JSON.parse(stdout) as object[];
    expect(results).toHaveLength(2);
    for (const result of results) {
      expect(result).toMatchObject({
        name: expect.stringMatching(/^bridge\./),
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
    ...['run', 'create', 'ls', 'rm', 'pause', 'resume', 'snapshot', 'fork', 'exec', 'shell', 'cp'],
    ...['ps', 'serve', 'host', 'pool', 'template', 'setup', 'doctor', 'bench', 'test'],
  ])('%s teaches', async (name) => {
    const { status, stdout } = await cli([name, '--help']).result;
    expect(stdout).toContain(`Usage: neurovisor ${name}`);
    expect(stdout.length).toBeGreaterThan(150);
    expect(status).toBe(0);
  });
});
