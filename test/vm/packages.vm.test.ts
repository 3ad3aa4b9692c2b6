/** `pip install` in a guest without a network card, through the package gateway. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { silentLog } from '../../src/base/log.ts';
import type { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import { startMockUpstream } from '../support/mock-upstream.ts';
import { startPackageIndex, wheelOf } from '../support/package-index.ts';
import { exec, python, useRuntime } from '../support/vm.ts';

const upstream = await startMockUpstream();
const index = await startPackageIndex();
const fixture = useRuntime(upstream.target.baseUrl ?? '', silentLog, async () => ({
  pip: index.index,
}));
let sandbox: Supervisor;

beforeAll(async () => {
  index.add(wheelOf('nvdemo', '1.0', 'hello', 'nvdemo-part'));
  index.add(wheelOf('nvdemo_part', '2.0', 'part'));
  index.add(wheelOf('nvdemo_evil', '1.0', 'evil'));
  sandbox = await fixture.runtime.startVm({
    memoryMib: 256,
    packages: { ecosystems: ['pip'], deny: ['nvdemo-evil'] },
  });
});
afterAll(async () => {
  await sandbox.stop();
  await index[Symbol.asyncDispose]();
  await upstream.close();
});

describe('packages in a guest', () => {
  it('pip: installs a wheel and its dependency, which a program can then import', async () => {
    const installed = await exec(sandbox.guest(), ['pip', 'install', 'nvdemo']);
    expect([installed.exitCode, installed.stderr]).toEqual([0, '']);
    expect(installed.stdout).toContain('Successfully installed nvdemo-1.0 nvdemo-part-2.0');
    const code = 'import nvdemo, nvdemo_part; print(nvdemo.TEXT, nvdemo_part.TEXT)';
    expect((await exec(sandbox.guest(), ['python3', '-c', code])).stdout).toBe('hello part\n');
    expect((await python(sandbox.guest(), code)).stdout).toBe('hello part\n');
  });

  it('pip: a denied package fails with the reason', async () => {
    const outcome = await exec(sandbox.guest(), ['pip', 'install', 'nvdemo-evil']);
    expect(outcome.exitCode).toBe(1);
    expect(outcome.stderr).toContain('nvdemo-evil is denied by --packages-deny of this sandbox');
  });
});
