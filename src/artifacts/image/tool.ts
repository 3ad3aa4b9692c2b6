/**
 * Runs a host program for a build: argument array, own process group, output by lines, cancellable. A build has many
 * processes (make, cc, apt), so canceling kills the group.
 */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { sleep, systemClock } from '../../base/clock.ts';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { searchPath } from '../../base/search-path.ts';
import { ImageError } from './errors.ts';

export interface ToolOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  readonly onLine?: (line: string) => void;
  /** Called with each line that the program writes to file descriptor 3 (apt's status lines). */
  readonly onStatusLine?: (line: string) => void;
  /** Remedy if the program is not installed. */
  readonly missingRemedy?: string;
}

/** A server of a tool that the network or the name service did not reach. */
export class UnreachableError extends ImageError {}

/** Waits before another try: a name service that restarts is away for less than a minute. */
const WAITS_MS = [5000, 15_000, 40_000] as const;

/** Lines of output kept for the message of a failure. */
const TAIL_LINES_MAX = 12;
const LINE_CHARS_MAX = 400;
const KILL_GRACE_MS = 3000;

/**
 * Resolves with the last lines of the output if the program exits with 0.
 * @throws ImageError `tool_missing`, `tool_failed` (its cause has the last lines), `disk_full`, `cancelled`
 */
export function runTool(program: string, args: readonly string[], options: ToolOptions = {}): Promise<string> {
  const { signal } = options;
  if (signal?.aborted) return Promise.reject(cancelled(program, signal));
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      cwd: options.cwd,
      env: toolEnvironment(options.env),
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe', options.onStatusLine === undefined ? 'ignore' : 'pipe'],
    });
    const tail: string[] = [];
    const keep = (line: string): void => {
      tail.push(line.slice(0, LINE_CHARS_MAX));
      if (tail.length > TAIL_LINES_MAX) tail.shift();
      options.onLine?.(line);
    };
    forEachLine(child.stdout, keep);
    forEachLine(child.stderr, keep);
    const status = child.stdio[3];
    if (options.onStatusLine !== undefined && status) {
      forEachLine(status as Readable, options.onStatusLine);
    }
    const stopWatching = killOnAbort(child.pid, signal);
    child.once('error', (error) => {
      stopWatching();
      reject(startFailure(program, error, options.missingRemedy));
    });
    child.once('close', (code, killedBy) => {
      stopWatching();
      if (signal?.aborted) reject(cancelled(program, signal));
      else if (code === 0) resolve(tail.join('\n'));
      else reject(toolFailure(program, args, code ?? killedBy, tail));
    });
  });
}

/**
 * Runs a step again while its server can't be reached, three times in a minute.
 * @param onWait Called before each wait.
 * @throws What the last try threw; the signal's reason.
 */
export async function whileUnreachable<T>(
  step: () => Promise<T>,
  signal: AbortSignal,
  onWait: (waitMs: number) => void,
  waitsMs: readonly number[] = WAITS_MS,
): Promise<T> {
  for (const waitMs of waitsMs) {
    try {
      return await step();
    } catch (error) {
      if (!(error instanceof UnreachableError)) throw error;
      onWait(waitMs);
      await sleep(waitMs, signal);
    }
  }
  return await step();
}

/** The first line of a tool's output: its full version. @throws ImageError */
export async function firstLineOf(program: string, args: readonly string[], signal?: AbortSignal): Promise<string> {
  let first: string | undefined;
  await runTool(program, args, {
    ...(signal === undefined ? {} : { signal }),
    onLine: (line) => {
      first ??= line;
    },
  });
  return first ?? '';
}

/** The environment of tools: that of this process, in English, with the system directories in PATH. */
export function toolEnvironment(extra: Readonly<Record<string, string>> = {}): NodeJS.ProcessEnv {
  const path = searchPath(process.env['PATH']);
  return { ...process.env, LC_ALL: 'C', PATH: path, ...extra };
}

function forEachLine(stream: Readable | null, handle: (line: string) => void): void {
  if (stream !== null) createInterface({ input: stream }).on('line', handle);
}

function killOnAbort(pid: number | undefined, signal: AbortSignal | undefined): () => void {
  if (pid === undefined || signal === undefined) return () => undefined;
  let cancelKill = (): void => undefined;
  const onAbort = (): void => {
    signalGroup(pid, 'SIGTERM');
    cancelKill = systemClock.after(KILL_GRACE_MS, () => signalGroup(pid, 'SIGKILL'));
  };
  signal.addEventListener('abort', onAbort, { once: true });
  return () => {
    signal.removeEventListener('abort', onAbort);
    cancelKill();
  };
}

function signalGroup(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(-pid, name);
  } catch (error) {
    ignore(error, 'the process group of a build tool has already ended');
  }
}

function startFailure(program: string, error: Error, remedy: string | undefined): ImageError {
  const missing = errorCode(error) === 'ENOENT';
  return new ImageError(missing ? 'tool_missing' : 'tool_failed', `start ${program}`, {
    cause: error,
    ...(missing ? { remedy: remedy ?? `Install the package that provides ${program}.` } : {}),
  });
}

function toolFailure(
  program: string,
  args: readonly string[],
  status: number | NodeJS.Signals | null,
  tail: readonly string[],
): ImageError {
  const text = tail.join('\n');
  const full = /No space left on device|Disk quota exceeded/.test(text);
  const how = typeof status === 'number' ? `exit status ${status}` : `ended by ${status}`;
  const command = [program, ...args.slice(0, 2)].join(' ');
  const offline = OFFLINE.exec(text)?.[0];
  if (offline !== undefined && !full) {
    return new UnreachableError('tool_failed', `run ${command}: its server can't be reached`, {
      cause: new Error(offline),
      remedy: `Check this machine's network, DNS and proxy. ${RUN_AGAIN}`,
    });
  }
  return new ImageError(full ? 'disk_full' : 'tool_failed', `run ${command}: ${how}`, {
    cause: new Error(text === '' ? 'it printed nothing' : text),
    ...(full ? { remedy: `Free disk space. ${RUN_AGAIN}` } : {}),
  });
}

const RUN_AGAIN = 'Then run the command again; finished steps are not repeated.';
/** Messages of apt, pip and skopeo if the network or the name service is missing. */
const OFFLINE =
  /Temporary failure (?:in name resolution|resolving '[^']*')|Could not resolve (?:host|'[^']*')|Network is unreachable|No route to host|no such host/;

function cancelled(program: string, signal: AbortSignal): ImageError {
  return new ImageError('cancelled', `run ${program}: cancelled`, { cause: signal.reason });
}
