import { Readable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import type { ExecSpec, Guest, Process, ProcessExit } from '../../machine/guest/guest.ts';
import { checkStart, START_LOG, startProgram } from './start-program.ts';

const START = { command: 'serve --port 80', ready: 'probe', readyTimeoutMs: 5_000 };

/** A guest whose program is ready at the n-th check, and exits at once with this status, if given. */
function guestWhere({
  readyAt = 1,
  ends,
  hangs,
}: {
  readyAt?: number;
  ends?: Partial<ProcessExit>;
  /** The program of the image that ends only by its timeout. */
  hangs?: string;
}) {
  const run: ExecSpec[] = [];
  let checks = 0;
  const process = (exit: Partial<ProcessExit> | Promise<never>, output = ''): Process =>
    ({
      stdout: Readable.from(output === '' ? [] : [Buffer.from(output)]),
      stderr: Readable.from([]),
      exit: Promise.resolve(exit),
    }) as unknown as Process;
  const never = new Promise<never>(() => undefined);
  const guest = {
    exec: async (spec: ExecSpec) => {
      run.push(spec);
      if (hangs !== undefined && spec.argv.some((part) => part.includes(hangs))) {
        return process(spec.timeoutMs === undefined ? never : { exitCode: null, signal: 'SIGKILL', timedOut: true });
      }
      if (spec.detached === true) return process(ends ?? never);
      if (spec.argv[0] === 'tail') return process({ exitCode: 0 }, 'port 80 is taken\n');
      if (spec.argv[2] !== 'probe') return process({ exitCode: 0 });
      checks += 1;
      return process({ exitCode: checks >= readyAt ? 0 : 7 });
    },
  } as unknown as Guest;
  return { guest, run };
}

async function start(guest: Guest, signal = new AbortController().signal): Promise<unknown> {
  const clock = new FakeClock();
  const report = (): void => undefined;
  let isOver = false;
  const outcome = startProgram(guest, START, { clock, signal, report })
    .catch((error: unknown) => error)
    .finally(() => {
      isOver = true;
    });
  while (!isOver) {
    await new Promise((resolve) => setImmediate(resolve));
    clock.advance(100);
  }
  return await outcome;
}

describe('startProgram', () => {
  it('starts the program once, detached, with its output in the log, and waits until it is ready', async () => {
    const { guest, run } = guestWhere({ readyAt: 3 });
    expect(await start(guest)).toBeUndefined();
    const programs = run.filter(({ detached }) => detached === true);
    expect(programs).toMatchObject([{ argv: ['sh', '-c', `exec >>${START_LOG} 2>&1\nserve --port 80`], stdin: false }]);
    expect(run.filter(({ argv }) => argv[2] === 'probe')).toHaveLength(3);
  });

  it.each([
    [{ exitCode: 3 }, 'it ended with status 3 before it was ready'],
    [{ exitCode: 0 }, 'it ended with status 0 before it was ready'],
    [{ exitCode: null, signal: 'SIGSEGV' }, 'it was ended by SIGSEGV before it was ready'],
    [
      { exitCode: null, signal: 'SIGKILL', oomKilled: true },
      'it was ended by SIGKILL: the guest had too little memory before it was ready',
    ],
  ])('reports a program that exited, with its last output: %j', async (ends, why) => {
    const { guest } = guestWhere({ readyAt: 9, ends });
    expect(await start(guest)).toMatchObject({
      code: 'spec_invalid',
      cause: `${why}\nits last output:\nport 80 is taken`,
    });
  });

  it('a program that exited fails even if the check succeeds', async () => {
    const { guest } = guestWhere({ readyAt: 1, ends: { exitCode: 1 } });
    expect(await start(guest)).toMatchObject({ code: 'spec_invalid' });
  });

  it('reports a program that is not ready in time', async () => {
    const { guest } = guestWhere({ readyAt: Number.POSITIVE_INFINITY });
    expect(await start(guest)).toMatchObject({
      cause: expect.stringMatching(/^it was not ready within 5 s\nits last output:/),
    });
  });

  it.each(['tail', 'mkdir'])('a %s of the image that never ends does not block the build', async (hangs) => {
    const { guest } = guestWhere({ ends: { exitCode: 3 }, hangs });
    expect(await start(guest)).toMatchObject({
      cause: expect.stringMatching(/^it ended with status 3 before it was ready\n/),
    });
  });

  it('a canceled build ends the wait', async () => {
    const { guest } = guestWhere({ readyAt: Number.POSITIVE_INFINITY });
    const aborter = new AbortController();
    setImmediate(() => aborter.abort(new Error('canceled')));
    expect(await start(guest, aborter.signal)).toMatchObject({ message: 'canceled' });
  });
});

describe('checkStart', () => {
  it.each([
    { command: '' },
    { ready: ' ' },
    { command: 'a\0b' },
    { ready: 'x'.repeat(16_385) },
    { readyTimeoutMs: 1 },
    { readyTimeoutMs: 1.5e3 + 0.5 },
  ])('refuses %j', (change) => {
    expect(() => checkStart({ ...START, ...change })).toThrow(expect.objectContaining({ code: 'spec_invalid' }));
    expect(checkStart(START)).toBe(START);
  });
});
