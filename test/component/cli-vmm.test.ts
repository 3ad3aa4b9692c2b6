/** `--vmm` and NEUROVISOR_VMM: a clear refusal if it can't run, before any set-up. */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { probeAccelerator } from '../../src/machine/vmm/accelerator/probe.ts';
import { cli } from '../support/cli.ts';
import { requiresFirecracker } from '../support/firecracker.ts';

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
  ])('%j: refused with the reason and the remedy', async (args, more: Record<string, string>) => {
    const { status, stdout, stderr } = await cli(args, { env: { ...env(), ...more } }).result;
    expect({ status, stdout }).toEqual({ status: 125, stdout: '' });
    expect(stderr).toContain('cannot use Firecracker: it is not installed');
    expect(stderr).toContain('--vmm qemu');
    expect(readdirSync(home)).not.toContain('data');
  });
  it('serve: reads it from neurovisor.toml', async () => {
    writeFileSync(join(home, 'neurovisor.toml'), '# settings\nvmm = "firecracker"\n');
    const { status, stderr } = await cli(['serve'], { env: env() }).result;
    expect([status, stderr]).toEqual([125, expect.stringContaining('cannot use Firecracker: it is not installed')]);
    writeFileSync(join(home, 'neurovisor.toml'), '# settings\nvmm = "xen"\n');
    const wrong = await cli(['serve', '-o', 'json'], { env: env() }).result;
    expect([wrong.status, wrong.stdout]).toEqual([2, expect.stringContaining('neurovisor.toml:2: vmm = ')]);
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
    const asked = await cli(['doctor'], { env: { ...env(), NEUROVISOR_VMM: 'firecracker' } }).result;
    expect(asked.stdout).toMatch(/^firecracker +missing +it is not installed/m);
  });
});

requiresFirecracker().describe('--vmm auto on a KVM that runs Linux', () => {
  /** Finds the KVM device, which must open, whatever else it can do. */
  async function findKvm(): Promise<void> {
    const path = join(home, 'probe.mjs');
    const steps = ['start', 'create', 'loop', 'int3', 'cmpxchg16b', 'xrstor', 'done'];
    const lines = steps.map((step) => `console.log('${JSON.stringify({ step })}');`);
    writeFileSync(path, lines.join('\n'));
    const child = [process.execPath, path];
    const verdict = await probeAccelerator({ cacheDir: join(home, 'cache'), child });
    expect(verdict.accelerator).toBe('kvm');
  }
  const doctor = async (more: Record<string, string> = {}): Promise<string> => {
    const found = { ...env(), NEUROVISOR_FIRECRACKER: join(home, 'firecracker'), ...more };
    return (await cli(['doctor'], { env: found }).result).stdout;
  };

  it('doctor: names the chosen VMM and the reason', async () => {
    await findKvm();
    expect(await doctor()).toMatch(/firecracker: install Firecracker with `neurovisor setup --fire/);
    const program = "#!/bin/sh\necho 'Firecracker v1.16.1'\n";
    writeFileSync(join(home, 'firecracker'), program, { mode: 0o755 });
    expect(await doctor({ NEUROVISOR_JAIL: 'off' })).toMatch(
      /^firecracker +ok +1\.16\.1, used: KVM runs .*, and Firecracker is installed$/m,
    );
    // Has no jailer, and no jail could run it.
    expect(await doctor()).toMatch(
      /^firecracker +unused +1\.16\.1 is installed, but Firecracker can't be jailed here: /m,
    );
    expect(await doctor({ NEUROVISOR_VMM: 'qemu' })).toMatch(
      /^firecracker +unused +1\.16\.1 is installed, but QEMU is configured$/m,
    );
  });
});
