/** The alerts of `deploy/prometheus`, judged by Prometheus' own checker. */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { ROOT } from '../support/cli.ts';
import { requiresPromtool } from '../support/promtool.ts';

const dir = mkdtempSync(join(tmpdir(), 'nv-alerts-'));
cpSync(join(ROOT, 'deploy/prometheus'), dir, { recursive: true });
afterAll(() => rmSync(dir, { recursive: true }));

const alerts = readFileSync(join(dir, 'alerts.yml'), 'utf8');
const names = [...alerts.matchAll(/- alert: (\w+)/g)].map(([, name = '']) => name);

requiresPromtool().describe('deploy/prometheus', ({ path }) => {
  const check = (...args: string[]): readonly [number | null, string] => {
    const { status, stdout, stderr } = spawnSync(path, args, { cwd: dir, encoding: 'utf8' });
    return [status, stdout + stderr];
  };

  it('prometheus.yml is valid, and loads the alerts', () => {
    expect(check('check', 'config', 'prometheus.yml')).toEqual([
      0,
      expect.stringContaining(`${names.length} rules found`),
    ]);
  });

  it('each alert is silent at first, and then fires with its labels and text', () => {
    expect(check('test', 'rules', 'alerts.test.yml')).toEqual([0, expect.stringContaining('SUCCESS')]);
  });

  it.each(names)('canary: %s that never fires fails its test', (name) => {
    const expr = new RegExp(`(- alert: ${name}\n {8}expr: ).*`);
    writeFileSync(join(dir, 'alerts.yml'), alerts.replace(expr, '$1vector(1) > 2'));
    const [status, output] = check('test', 'rules', 'alerts.test.yml');
    writeFileSync(join(dir, 'alerts.yml'), alerts);
    expect(status).toBe(1);
    expect(output).toContain(`alertname: ${name}`);
  });
});
