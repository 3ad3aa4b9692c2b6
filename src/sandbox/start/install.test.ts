import { Readable } from 'node:stream';
import { expect, it, onTestFinished } from 'vitest';
import { HOST_DISK_FULL } from '../../base/request/package-policy.ts';
import type { ExecSpec, Guest, Process } from '../../machine/guest/link.ts';
import { installPackages } from './install.ts';

/** Behaves like a program whose guest loses its connection: exit and streams fail. */
function lostProcess(): Process {
  const stream = (): Readable => {
    const made = new Readable({ read: () => undefined });
    made.on('error', () => undefined);
    return made;
  };
  const [stdout, stderr] = [stream(), stream()];
  const exit = new Promise((_resolve, reject) => {
    setImmediate(() => {
      const reason = new Error('the connection to the guest ended');
      reject(reason);
      stdout.destroy(reason);
      stderr.destroy(reason);
    });
  });
  return { stdout, stderr, exit } as unknown as Process;
}

const endedProcess = (): Process =>
  ({
    stdout: Readable.from([]),
    stderr: Readable.from([]),
    exit: Promise.resolve({ exitCode: 0 }),
  }) as unknown as Process;

it.each(['pip', 'the list of modules'])(
  'losing the guest during %s: one error, and no unhandled rejection',
  async (step) => {
    const unhandled: unknown[] = [];
    const note = (reason: unknown): void => void unhandled.push(reason);
    process.on('unhandledRejection', note);
    onTestFinished(() => void process.off('unhandledRejection', note));
    const isLost = ({ argv }: ExecSpec): boolean => argv.includes('pip') === (step === 'pip');
    const guest = {
      files: { write: async () => undefined },
      exec: async (spec: ExecSpec) => (isLost(spec) ? lostProcess() : endedProcess()),
    } as unknown as Guest;
    const { signal } = new AbortController();
    const installing = installPackages(guest, { requirements: ['rich'], report: () => undefined, signal });
    await expect(installing).rejects.toThrow('the connection to the guest ended');
    await new Promise((resolve) => setImmediate(resolve));
    expect(unhandled).toEqual([]);
  },
);

it.each([
  [`403 Client Error: ${HOST_DISK_FULL}: free space there.`, 'disk_full', 'NEUROVISOR_HOME'],
  ['ERROR: [Errno 28] No space left on device', 'spec_invalid', '--disk'],
  ['ERROR: No matching distribution found', 'spec_invalid', 'check the names'],
])('pip that ends with %j: %s, with a remedy', async (output, code, remedy) => {
  const failed = {
    stdout: Readable.from([]),
    stderr: Readable.from([`${output}\n`]),
    exit: Promise.resolve({ exitCode: 1 }),
  } as unknown as Process;
  const guest = { files: { write: async () => undefined }, exec: async () => failed };
  const { signal } = new AbortController();
  const installing = installPackages(guest as unknown as Guest, {
    requirements: ['rich'],
    report: () => undefined,
    signal,
  });
  await expect(installing).rejects.toMatchObject({
    code,
    remedy: expect.stringContaining(remedy),
    cause: expect.stringContaining(output),
  });
});
