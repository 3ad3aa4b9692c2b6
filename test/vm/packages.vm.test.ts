/** `pip install` in guests without a network card, through the package gateway. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startMockUpstream } from '../support/mock-upstream.ts';
import { startPackageIndex, wheelOf } from '../support/package-index.ts';
import { exec, python, SMALL, useControlPlane } from '../support/vm.ts';

const upstream = await startMockUpstream();
const index = await startPackageIndex();
const fixture = useControlPlane(
  () => upstream.target.baseUrl ?? '',
  undefined,
  async () => ({ pip: index.index }),
);
let id: string;

beforeAll(async () => {
  index.add(wheelOf('nvdemo', '1.0', 'hello', 'nvdemo-part'));
  index.add(wheelOf('nvdemo_part', '2.0', 'part'));
  index.add(wheelOf('nvdemo_evil', '1.0', 'evil'));
  index.add(wheelOf('nvdemo_later', '1.0', 'later'));
  const packages = { ecosystems: ['pip'], deny: ['nvdemo-evil'] } as const;
  const { control } = fixture;
  ({ id } = await control.create({ ...SMALL, memoryMib: 256, boot: true, packages }));
});
afterAll(async () => {
  await fixture.control.remove(id);
  await index[Symbol.asyncDispose]();
  await upstream.close();
});

const run = async (sandbox: string, ...argv: string[]) => await exec(await fixture.control.guest(sandbox), argv);

describe('packages in a guest', () => {
  it('pip: installs a wheel and its dependency, which a program and a script can then import', async () => {
    const installed = await run(id, 'pip', 'install', 'nvdemo');
    expect([installed.exitCode, installed.stderr]).toEqual([0, '']);
    expect(installed.stdout).toContain('Successfully installed nvdemo-1.0 nvdemo-part-2.0');
    const code = 'import nvdemo, nvdemo_part; print(nvdemo.TEXT, nvdemo_part.TEXT)';
    expect((await run(id, 'python3', '-c', code)).stdout).toBe('hello part\n');
    const script = await python(await fixture.control.guest(id), code);
    expect(script.stdout).toBe('hello part\n');
    const { packages } = await fixture.control.get(id);
    expect(packages).toMatchObject({ ecosystems: ['pip'], deny: ['nvdemo-evil'] });
  });

  it('events: each file and each refusal is one, with its digest', async () => {
    const seen = [];
    for await (const event of fixture.control.events(id, { follow: false })) seen.push(event);
    const files = seen.flatMap((event) => (event.type === 'package' && event.file !== '' ? [event] : []));
    expect(files).toHaveLength(2);
    expect(files[0]).toMatchObject({
      ecosystem: 'pip',
      name: 'nvdemo',
      version: '1.0',
      outcome: 'ok',
      digest: expect.stringMatching(/^sha256:[0-9a-f]{64}$/) as unknown,
    });
  });

  it('a pause to disk and a fork keep the policy: a denied package fails with the reason', async () => {
    const { control } = fixture;
    await control.pause(id, 'disk');
    await control.resume(id);
    const [fork] = await control.fork(id, { count: 1 });
    if (fork?.ok !== true) throw new Error('the fork failed');
    for (const sandbox of [id, fork.sandbox.id]) {
      const denied = await run(sandbox, 'pip', 'install', 'nvdemo-evil');
      expect(denied.exitCode).toBe(1);
      expect(denied.stderr).toContain('nvdemo-evil is denied by --packages-deny of this sandbox');
    }
    const allowed = await run(fork.sandbox.id, 'pip', 'install', '--no-deps', 'nvdemo-later');
    expect([allowed.exitCode, allowed.stderr]).toEqual([0, '']);
    await control.remove(fork.sandbox.id);
  });

  it('without --packages: pip names the remedy', async () => {
    const { control } = fixture;
    const { id: other } = await control.create({ ...SMALL, memoryMib: 256, boot: true });
    const outcome = await run(other, 'pip', 'install', 'nvdemo');
    expect(outcome.exitCode).toBe(1);
    expect(outcome.stderr).toContain('create it with --packages pip');
    await control.remove(other);
  });
});

describe('a change of a running sandbox', () => {
  it('allowing and forbidding packages takes effect at once', async () => {
    const { control } = fixture;
    const { id: other } = await control.create({ ...SMALL, memoryMib: 256, boot: true });
    const install = ['pip', 'download', '--no-deps', 'nvdemo'] as const;
    expect((await run(other, ...install)).stderr).toContain('create it with --packages pip');
    await control.update(other, { packages: { ecosystems: ['pip'], allow: ['nvdemo'] } });
    const allowed = await run(other, ...install);
    expect([allowed.exitCode, allowed.stderr]).toEqual([0, '']);
    const denied = await run(other, 'pip', 'download', '--no-deps', 'nvdemo-later');
    expect(denied.stderr).toContain('nvdemo-later is not in --packages-allow of this sandbox');
    await control.update(other, { packages: null });
    const off = await run(other, 'pip', 'download', '--no-deps', 'nvdemo-part');
    expect(off.stderr).toContain('create it with --packages pip');
    await control.remove(other);
  });
});

describe('a template with packages', () => {
  it('clones have imported the modules that pip installed in the build', async () => {
    const { control } = fixture;
    const requirements = ['NVDemo >= 1'];
    const made = await control.create({ ...SMALL, requirements });
    expect(made.origin).toBe('clone');
    const code = 'import sys; warm = "nvdemo" in sys.modules; import nvdemo, nvdemo_part';
    const guest = await control.guest(made.id);
    const script = await python(guest, `${code}; print(warm, nvdemo.TEXT, nvdemo_part.TEXT)`);
    expect(script).toMatchObject({ stdout: 'True hello part\n', stderr: '' });
    // Packages are installed; the gateway stays closed.
    expect((await run(made.id, 'pip', 'download', 'nvdemo')).exitCode).not.toBe(0);
    await control.remove(made.id);
  });

  it('no sandbox starts without packages that can’t be installed', async () => {
    const creating = fixture.control.create({ ...SMALL, requirements: ['nvdemo-none'] });
    await expect(creating).rejects.toMatchObject({
      code: 'spec_invalid',
      cause: expect.stringContaining('No matching distribution found for nvdemo-none') as unknown,
    });
  });
});
