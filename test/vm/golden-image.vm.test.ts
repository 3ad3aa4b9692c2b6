/**
 * The golden image is the same file for all sandboxes, so no guest may change it (R-G-5, S5, S7): root of one
 * guest tries every way to write, then the file is hashed in full and a second sandbox looks at it.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Attack, attackImage } from '../../prove/jail/image-attacks.ts';
import { digestFile } from '../../src/artifacts/image/verify.ts';
import type { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import { exec, useRuntime } from '../support/vm.ts';

const fixture = useRuntime();
let sandbox: Supervisor;
let digestBefore: string;

beforeAll(async () => {
  digestBefore = await digestFile(fixture.runtime.artifacts.rootImagePath);
  sandbox = await fixture.runtime.startVm({ memoryMib: 256, diskMib: 64 });
});
afterAll(() => sandbox.stop());

/** Of one guest. */
const ATTACKS_MIN = 100;

describe('the golden image', () => {
  it('a guest’s root user can not write to it in a hundred ways', async () => {
    const tries = await attackImage(sandbox.guest());
    const isControl = ({ what }: Attack): boolean => what.startsWith('control: ');
    const [controls, attacks] = [tries.filter(isControl), tries.filter((one) => !isControl(one))];
    expect(controls.length).toBeGreaterThan(5);
    expect(controls.filter(({ seen }) => seen !== 'WRITTEN')).toEqual([]);
    expect(attacks.length).toBeGreaterThanOrEqual(ATTACKS_MIN);
    expect(attacks.filter(({ seen }) => seen !== 'refused')).toEqual([]);
  });

  it('it is bit-identical after attacks, and no guest sees the writes of another', async () => {
    const own = 'echo mine > /usr/lib/probe && rm /etc/hostname && sync';
    expect(await exec(sandbox.guest(), ['sh', '-c', own], { user: 'root' })).toMatchObject({ exitCode: 0 });
    const { rootImagePath, rootImageDigest } = fixture.runtime.artifacts;
    expect(digestBefore).toBe(rootImageDigest);
    expect(await digestFile(rootImagePath)).toBe(rootImageDigest);
    const sibling = await fixture.runtime.startVm({ memoryMib: 256, diskMib: 64 });
    try {
      const look = 'ls /usr/lib/probe; test -e /etc/hostname && echo clean';
      const outcome = await exec(sibling.guest(), ['sh', '-c', look], { user: 'root' });
      expect(outcome.stdout).toBe('clean\n');
    } finally {
      await sibling.stop();
    }
  });
});

describe('the guest', () => {
  it('programs trust the usual certificate authorities', async () => {
    const code =
      'import ssl; print(len(ssl.create_default_context().get_ca_certs()) > 100, ssl.get_default_verify_paths().cafile)';
    const outcome = await exec(sandbox.guest(), ['python3', '-I', '-c', code], { user: 'user' });
    expect(outcome.stdout).toBe('True /usr/lib/ssl/cert.pem\n');
  });

  it('it has the requested kernel and limits (R-G-1, R-G-2)', async () => {
    const script = 'cat /proc/cmdline; ls /proc/modules /proc/kallsyms /dev/mem /proc/kcore 2>&1; id';
    const outcome = await exec(sandbox.guest(), ['sh', '-c', script], { user: 'user' });
    const [cmdline, ...rest] = outcome.stdout.split('\n');
    expect(cmdline).toMatch(/(^| )ro( |$)/);
    expect(rest.filter((line) => line.includes('No such file'))).toHaveLength(4);
    expect(rest.join()).toContain('uid=1000(user)');
  });

  it('it imports NumPy and LangChain without a network (R-G-7)', async () => {
    const program = 'import numpy, langchain, langchain_openai; print(numpy.ones(3).sum())';
    const outcome = await exec(sandbox.guest(), ['python3', '-c', program], { user: 'user' });
    expect(outcome).toMatchObject({ exitCode: 0, stdout: '3.0\n' });
  });
});
