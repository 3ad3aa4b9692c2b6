/** `--vmm` and NEUROVISOR_VMM: a clear refusal where it can't run, before anything is set up. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { cli } from '../support/cli.ts';

let home: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'nv-home-'));
});
afterEach(() => rmSync(home, { recursive: true, force: true }));

const env = () => ({ NEUROVISOR_HOME: home, NEUROVISOR_FIRECRACKER: '/nonexistent/firecracker' });

describe('--vmm', () => {
  it.each([
    [['run', '--vmm', 'firecracker', '-c', 'print(1)'], {}],
    [['run', '-c', 'print(1)'], { NEUROVISOR_VMM: 'firecracker' }],
    [['serve', '--vmm', 'firecracker'], {}],
  ])('%j: refused with the reason and what to do', async (args, more: Record<string, string>) => {
    const { status, stdout, stderr } = await cli(args, { env: { ...env(), ...more } }).result;
    expect({ status, stdout }).toEqual({ status: 125, stdout: '' });
    expect(stderr).toContain('cannot use Firecracker: it is not installed');
    expect(stderr).toContain('--vmm qemu');
    expect(readdirSync(home)).not.toContain('data');
  });
  it('rejects any other VMM', async () => {
    const run = cli(['run', '--vmm', 'xen', '-c', 'print(1)'], { env: env() });
    expect((await run.result).stderr).toContain('Allowed choices are auto, firecracker, qemu');
    const variable = cli(['doctor'], { env: { ...env(), NEUROVISOR_VMM: 'xen' } });
    expect((await variable.result).stderr).toContain('NEUROVISOR_VMM');
  });
  it('doctor: says why Firecracker is unused, and requires it only if selected', async () => {
    const plain = await cli(['doctor'], { env: env() }).result;
    expect(plain.stdout).toMatch(/^firecracker +unused +it is not installed/m);
    const asked = await cli(['doctor'], { env: { ...env(), NEUROVISOR_VMM: 'firecracker' } })
      .result;
    expect(asked.stdout).toMatch(/^firecracker +missing +it is not installed/m);
  });
});
