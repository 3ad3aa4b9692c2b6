import { Readable } from 'node:stream';
import { expect, it, onTestFinished } from 'vitest';
import type { ExecSpec, Guest, Process } from '../../guest/link.ts';
import { installPackages } from './install.ts';

/** As a program of a guest whose connection ends: its exit and its streams fail. */
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
  'a guest that is lost during %s: one error, and no rejection that nobody handles',
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
    const installing = installPackages(guest, {
      requirements: ['rich'],
      report: () => undefined,
      signal,
    });
    await expect(installing).rejects.toThrow('the connection to the guest ended');
    await new Promise((resolve) => setImmediate(resolve));
    expect(unhandled).toEqual([]);
  },
);
