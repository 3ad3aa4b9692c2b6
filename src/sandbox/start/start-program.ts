/**
 * The program that runs in every clone of a template: started in the template's guest, which is saved once it is ready.
 *
 *     start ─► `sh -c COMMAND`, output to a log in the guest ─► `sh -c READY` again and again, until it exits with 0
 */
import { once } from 'node:events';
import type { Clock } from '../../base/clock.ts';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { timeLimit, wait } from '../../base/time-limit.ts';
import type { ExecSpec, Guest } from '../../machine/guest/guest.ts';
import { inRange } from '../contract/checks.ts';
import { SandboxError } from '../contract/errors.ts';
import { RANGES, REQUEST_LIMITS } from '../contract/limits.ts';
import type { StartCommand } from '../contract/schema/request.ts';

/** Path in the guest. World-writable, since the program runs as the image's user. */
export const START_LOG = '/var/log/neurovisor-start.log';
/** Interval between two checks; one takes 50 ms in software emulation. */
const POLL_MS = 200;
/** Bytes of the program's last output that an error shows. */
const LOG_BYTES_SHOWN = 1_500;
/** Timeout of our own commands: the programs they run are the image's and may never end. */
const COMMAND_MS_MAX = 30_000;
const MAKE_LOG = 'mkdir -p /var/log && : >"$0" && chmod 666 "$0"';
const SHOWN_CHARACTERS = 80;

/** @throws SandboxError `spec_invalid` */
export function checkStart(start: StartCommand): StartCommand {
  for (const name of ['command', 'ready'] as const) {
    const text = start[name];
    if (text.trim() !== '' && text.length <= REQUEST_LIMITS.startCharactersMax && !text.includes('\0')) continue;
    const most = REQUEST_LIMITS.startCharactersMax;
    throw new SandboxError(
      'spec_invalid',
      `template option ${name === 'command' ? 'start' : name}: a command of 1 to ${most} characters`,
    );
  }
  inRange('readyTimeoutMs', start.readyTimeoutMs, RANGES.readyTimeoutMs);
  return start;
}

export interface StartParts {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly report: (detail: string) => void;
}

/**
 * Resolves when the program is ready; it continues without a connection.
 * @throws SandboxError `spec_invalid` if it exited or was not ready in time; with its last output
 */
export async function startProgram(
  guest: Guest,
  { command, ready, readyTimeoutMs }: StartCommand,
  { clock, signal, report }: StartParts,
): Promise<void> {
  report(`start ${shown(command)}`);
  const asRoot = { user: 'root', timeoutMs: COMMAND_MS_MAX };
  await run(guest, ['sh', '-c', MAKE_LOG, START_LOG], signal, asRoot);
  const argv = ['sh', '-c', `exec >>${START_LOG} 2>&1\n${command}`];
  const program = await guest.exec({ argv, stdin: false, detached: true, tag: 'start' }, signal);
  program.stdout.resume();
  program.stderr.resume();
  let ended: string | null = null;
  program.exit.then(
    ({ exitCode, signal: killed, oomKilled }) => {
      const how = exitCode === null ? `was ended by ${killed}` : `ended with status ${exitCode}`;
      ended = oomKilled ? `${how}: the guest had too little memory` : how;
    },
    // Happens also once the template is saved.
    (error: unknown) => ignore(error, 'the connection is over, not the program'),
  );
  using limit = timeLimit(clock, readyTimeoutMs, signal);
  const untilReady = async (): Promise<void> => {
    for (;;) {
      const isReady = await run(guest, ['sh', '-c', ready], limit.signal);
      if (ended !== null) throw await failure(guest, `it ${ended} before it was ready`, signal);
      if (isReady) return;
      report(`wait for ${shown(ready)}`);
      await wait(clock, POLL_MS, limit.signal);
    }
  };
  try {
    await untilReady();
  } catch (error) {
    if (signal.aborted || !limit.signal.aborted) throw error;
    const why = `it was not ready within ${readyTimeoutMs / 1000} s`;
    throw await failure(guest, why, signal);
  }
}

/** Returns whether the exit status is 0. */
async function run(
  guest: Guest,
  argv: readonly string[],
  signal: AbortSignal,
  options: Pick<ExecSpec, 'user' | 'timeoutMs'> = {},
): Promise<boolean> {
  const started = await guest.exec({ argv, stdin: false, ...options }, signal);
  started.stdout.resume();
  started.stderr.resume();
  return (await started.exit).exitCode === 0;
}

async function failure(guest: Guest, why: string, signal: AbortSignal): Promise<SandboxError> {
  const last = await lastOutput(guest, signal);
  return new SandboxError('spec_invalid', 'the start command of the template failed', {
    cause: `${why}\n${last === '' ? 'it printed nothing' : `its last output:\n${last}`}`,
    remedy:
      'the start command runs in the foreground, without a network and a model; try it and the ready command ' +
      'in a sandbox (neurovisor exec), or give it more time (--ready-timeout)',
  });
}

async function lastOutput(guest: Guest, signal: AbortSignal): Promise<string> {
  try {
    const argv = ['tail', '-c', `${LOG_BYTES_SHOWN}`, START_LOG];
    const tail = await guest.exec({ argv, stdin: false, timeoutMs: COMMAND_MS_MAX }, signal);
    tail.stderr.resume();
    let text = '';
    tail.stdout.setEncoding('utf8');
    tail.stdout.on('data', (chunk: string) => {
      text = (text + chunk).slice(-LOG_BYTES_SHOWN);
    });
    // Awaited together: if the guest is lost, both fail.
    await Promise.all([tail.exit, once(tail.stdout, 'close')]);
    return text.trim();
  } catch (error) {
    ignore(error, `the output is only shown (${errorCode(error)})`);
    return '';
  }
}

function shown(command: string): string {
  const [line = ''] = command.trim().split('\n');
  return line.length > SHOWN_CHARACTERS ? `${line.slice(0, SHOWN_CHARACTERS)}…` : line;
}
