/** `neurovisor exec` and `shell`: run a program in a sandbox, on the streams of this command. */
import { CodedError, describeError } from '../../base/errors.ts';
import { awaitOr } from '../../base/ignore.ts';
import { plain } from '../../base/text/plain.ts';
import type { SignalName } from '../../machine/guest/guest.ts';
import type { Guest, Process, ProcessExit, RunOptions } from '../../machine/guest/link.ts';
import type { ControlPlane } from '../../sandbox/contract/control.ts';
import type { Cli } from '../cli.ts';
import { EXIT_NO_PROGRAM, EXIT_NOT_EXECUTABLE } from '../exit-status.ts';
import { failureJson, failureText, UsageError } from '../failure.ts';
import { parseEnv } from '../flags/options.ts';
import { sandboxId } from '../flags/pick.ts';
import * as ranges from '../flags/ranges.ts';
import { endAfterLoss, statusOfEnd, watchFullDisk } from '../output/loss.ts';
import {
  type Encoding,
  exitStatus,
  hasFailed,
  NOT_TRUNCATED,
  type Relayed,
  relay,
  type Truncated,
} from '../output/program-streams.ts';
import { inRawMode, requireTerminal, terminalSize } from '../output/terminal.ts';

export interface ExecFlags {
  /** Python code instead of a program. */
  readonly code?: string;
  readonly interactive?: boolean;
  readonly tty?: boolean;
  readonly env: readonly string[];
  readonly user?: string;
  readonly workdir?: string;
  readonly timeout?: string;
  readonly detach?: boolean;
}

/** The program runs in a sandbox whose options are chosen. */
const HINT = 'create the sandbox with';

/** What `-o json` prints. */
export interface ExecReport {
  readonly sandbox: string;
  readonly pid: number;
  /** Null with `--detach`. */
  readonly exit: ProcessExit | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly encoding: Encoding;
  readonly truncated: Truncated;
}

/**
 * @returns the program's exit status, 124 at its time limit, 128+n after a signal, 126 not executable, 127 not found
 */
export async function exec(
  cli: Cli,
  control: ControlPlane,
  text: string,
  argv: readonly string[],
  flags: ExecFlags,
): Promise<number> {
  return await withProgramStatus(cli, () => execOrThrow(cli, control, text, argv, flags));
}

/** Turns the failure to start a program into the exit status that shells have for it. */
export async function withProgramStatus(cli: Cli, work: () => Promise<number>): Promise<number> {
  try {
    return await work();
  } catch (error) {
    const status = statusOfNoProgram(error);
    if (status === null) throw error;
    if (cli.json) cli.printJson(failureJson(error));
    else cli.stderr.write(`${failureText(error)}\n`);
    return status;
  }
}

/** Exit status, as of shells, for a program that did not start; null: another failure. */
function statusOfNoProgram(error: unknown): number | null {
  // A missing working directory has the same code, so the message decides.
  if (!(error instanceof CodedError) || !/\bprogram ['"]/.test(describeError(error))) return null;
  if (error.code === 'not_found') return EXIT_NO_PROGRAM;
  const isNotExecutable = error.code === 'permission_denied' || error.code === 'invalid_request';
  return isNotExecutable ? EXIT_NOT_EXECUTABLE : null;
}

async function execOrThrow(
  cli: Cli,
  control: ControlPlane,
  text: string,
  argv: readonly string[],
  flags: ExecFlags,
): Promise<number> {
  checkExec(cli, argv, flags);
  const stdin = flags.tty === true ? requireTerminal(cli, '-t') : null;
  const options = runOptions(cli, flags);
  const id = await sandboxId(control, text);
  const guest = await control.guest(id);
  const aborter = new AbortController();
  const begin = (more: RunOptions): Promise<Process> =>
    start(guest, argv, flags, { ...options, ...more }, aborter.signal).catch(async (error: unknown) => {
      if (statusOfNoProgram(error) !== EXIT_NO_PROGRAM) throw error;
      const { startHint } = await import('../output/failure-hint.ts');
      const remedy = startHint(describeError(error), { ...(await control.get(id)), how: HINT });
      throw remedy === null ? error : new CodedError('not_found', describeError(error), { remedy });
    });
  if (flags.detach === true) {
    const { pid } = await begin({ detached: true, stdin: false });
    // The program keeps running without its connection.
    aborter.abort();
    const encoding: Encoding = { stdout: 'utf8', stderr: 'utf8' };
    const output = { stdout: '', stderr: '', encoding, truncated: NOT_TRUNCATED };
    const report: ExecReport = { sandbox: id, pid, exit: null, ...output };
    if (cli.json) cli.printJson(report);
    else cli.stdout.write(`${pid}\n`);
    return 0;
  }
  if (stdin !== null) {
    const pty = terminalSize(cli);
    const env = { TERM: cli.env['TERM'] ?? 'xterm', ...options.env };
    const process = await begin({ pty, env });
    // Ctrl-C always goes to the program; SIGTERM and SIGHUP stop everything.
    cli.onEnd(() => aborter.abort());
    try {
      return await onTerminal(cli, stdin, process, killer(control, id, process, aborter));
    } catch (error) {
      if (cli.cancelled.aborted) throw error;
      return statusOfEnd(cli, await endAfterLoss(cli, control, id, error), 'the program');
    }
  }
  const readsStdin = cli.stdin.isTTY !== true || flags.interactive === true;
  const process = await begin({ stdin: readsStdin });
  cli.onEnd(() => aborter.abort());
  const stopWatching = watchFullDisk(control, id, (text) => {
    const remedy = `free space, then continue with: neurovisor resume ${id}`;
    cli.stderr.write(`neurovisor: the sandbox is paused: ${plain(text)}; ${remedy}\n`);
  });
  const relayed = await relay(cli, process, {
    stdin: readsStdin,
    graceMs: null,
    kill: killer(control, id, process, aborter),
  });
  stopWatching();
  // The status of the signal counts.
  if (relayed.exit === null && aborter.signal.aborted) throw relayed.lost;
  return await reportEnd(cli, control, id, process, relayed);
}

/** Shows what a program that runs without this command writes from now on. A signal leaves the program running. */
export async function attach(cli: Cli, control: ControlPlane, text: string, program: string): Promise<number> {
  const pid = ranges.pid(program);
  const id = await sandboxId(control, text);
  const aborter = new AbortController();
  const process = await (await control.guest(id)).attach(pid, { signal: aborter.signal });
  const leave = (): void => aborter.abort();
  cli.onEnd(leave);
  const relayed = await relay(cli, process, { stdin: false, graceMs: null, kill: leave });
  if (relayed.exit === null && aborter.signal.aborted) {
    if (!cli.json) cli.stderr.write('detached; the program continues\n');
    return 0;
  }
  return await reportEnd(cli, control, id, process, relayed);
}

async function reportEnd(
  cli: Cli,
  control: ControlPlane,
  id: string,
  process: Process,
  relayed: Relayed,
): Promise<number> {
  const { exit, stdout, stderr, encoding, truncated } = relayed;
  if (exit === null) return statusOfEnd(cli, await endAfterLoss(cli, control, id, relayed.lost), 'the program');
  if (cli.json) {
    const { pid } = process;
    const report: ExecReport = { sandbox: id, pid, exit, stdout, stderr, encoding, truncated };
    cli.printJson(report);
  } else if (hasFailed(exit)) {
    const { failureHint } = await import('../output/failure-hint.ts');
    const hint = failureHint(relayed.lastStderr, { ...(await control.get(id)), how: HINT });
    if (hint !== null) cli.stderr.write(`neurovisor: ${plain(hint)}\n`);
  }
  return exitStatus(cli, exit, 'the program');
}

/** Bash if the image has one. */
const SHELL_OF_IMAGE = 'command -v bash >/dev/null && exec bash -l; exec sh -l';

/** A shell as the guest's user, on this terminal. */
export async function shell(
  cli: Cli,
  control: ControlPlane,
  text: string,
  flags: Pick<ExecFlags, 'env' | 'user' | 'workdir'>,
): Promise<number> {
  requireTerminal(cli, 'shell', `run commands with: neurovisor exec ${text} COMMAND`);
  const { image } = await control.get(await sandboxId(control, text));
  const argv = image === null ? ['bash', '-l'] : ['sh', '-c', SHELL_OF_IMAGE];
  return await exec(cli, control, text, argv, { ...flags, tty: true });
}

/** @throws UsageError */
export function checkExec(cli: Cli, argv: readonly string[], flags: ExecFlags): void {
  if (flags.code === undefined && argv.length === 0) {
    throw new UsageError('missing program', 'use neurovisor exec ID PROGRAM [ARGS], or neurovisor exec ID -c CODE');
  }
  if (flags.tty === true && cli.json) throw new UsageError('-t and -o json are mutually exclusive', 'omit one of them');
  if (flags.detach === true && (flags.tty === true || flags.interactive === true)) {
    throw new UsageError('--detach excludes -i and -t', 'omit -i and -t');
  }
  runOptions(cli, flags);
}

function runOptions(cli: Cli, { env, user, workdir, timeout }: ExecFlags): RunOptions {
  return {
    env: parseEnv(env, cli.env),
    ...(user === undefined ? {} : { user }),
    ...(workdir === undefined ? {} : { cwd: workdir }),
    ...(timeout === undefined ? {} : { timeoutMs: ranges.timeout(timeout) }),
  };
}

/** @param signal closes the connection, which ends the program unless it is detached */
function start(
  guest: Guest,
  argv: readonly string[],
  { code }: ExecFlags,
  options: RunOptions,
  signal: AbortSignal,
): Promise<Process> {
  return code === undefined
    ? guest.exec({ ...options, argv }, signal)
    : guest.python({ ...options, script: { code }, args: argv }, signal);
}

/**
 * Sends a signal, which would resume a paused sandbox: for that, ends the connection instead, and with it the program
 * once the sandbox runs again. Never rejects. Returns whether the signal was sent.
 */
function killer(control: ControlPlane, id: string, process: Process, connection: AbortController) {
  return async (signal: SignalName): Promise<boolean> => {
    const { status } = await awaitOr({ status: null }, 'the signal fails, too', () => control.get(id));
    if (status === 'paused') connection.abort();
    else process.kill(signal);
    return status !== 'paused';
  };
}

async function onTerminal(
  cli: Cli,
  stdin: ReturnType<typeof requireTerminal>,
  process: Process,
  kill: ReturnType<typeof killer>,
): Promise<number> {
  process.stdout.pipe(cli.stdout, { end: false });
  process.stderr.resume();
  const handlers = {
    onKeys: (keys: Uint8Array) => void process.stdin.write(keys),
    onResize: process.resize.bind(process),
  };
  const exit = await inRawMode(cli, stdin, handlers, async (left) => {
    return await Promise.race([left.then(() => null), process.exit]);
  });
  if (exit !== null) return exitStatus(cli, exit, 'the program');
  const end = (await kill('SIGKILL')) ? 'was killed' : 'ends once the sandbox is resumed';
  cli.stderr.write(`\r\ndetached; the program ${end}\n`);
  return 0;
}
