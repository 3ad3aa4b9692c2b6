/** Connects a program in a guest to the streams of this command: input, output, Ctrl-C, exit status. */
import { Readable, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { describeError, errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { type OutputEncoding, type OutputText, outputText } from '../../base/text/output-text.ts';
import { plain } from '../../base/text/plain.ts';
import { MIB } from '../../base/units.ts';
import type { SignalName } from '../../machine/guest/guest.ts';
import type { Process, ProcessExit } from '../../machine/guest/link.ts';
import type { Cli } from '../cli.ts';
import { EXIT_TIMEOUT, exitOfSignal } from '../exit-status.ts';
import { bytes } from './table.ts';

/** JSON mode holds the output of each stream up to this limit, to print one object. */
const JSON_OUTPUT_BYTES_MAX = 16 * MIB;
/** Enough for the last line of a traceback. */
const LAST_STDERR_BYTES = 4096;

export interface Relayed {
  /** Null: the connection or the sandbox was lost first. */
  readonly exit: ProcessExit | null;
  /** The error that explains why `exit` is null. */
  readonly lost: unknown;
  /** Time of the first output byte, on the monotonic clock; undefined: no output. */
  readonly firstAt: number | undefined;
  /** Held output in JSON mode, otherwise empty. */
  readonly stdout: string;
  readonly stderr: string;
  readonly encoding: Encoding;
  /** The end of stderr, at most `LAST_STDERR_BYTES`: untrusted. */
  readonly lastStderr: string;
  readonly truncated: Truncated;
}

/** Bytes that JSON mode dropped beyond its limit; 0: none. */
export interface Truncated {
  readonly stdoutBytes: number;
  readonly stderrBytes: number;
}

/** `base64` for output that is not UTF-8. */
export type Encoding = Readonly<Record<'stdout' | 'stderr', OutputEncoding>>;

export const NOT_TRUNCATED: Truncated = { stdoutBytes: 0, stderrBytes: 0 };

/**
 * Resolves when the program has ended and its output has been written.
 * @param graceMs see `Cli.onSignal`
 */
export async function relay(
  cli: Cli,
  process: Process,
  options: {
    readonly stdin: boolean;
    readonly graceMs: number | null;
    /** What the program gets where this command gets SIGTERM. Default: the same. */
    readonly stopSignal?: SignalName;
    /** Default: of the process. */
    readonly kill?: (signal: SignalName) => unknown;
  },
): Promise<Relayed> {
  const { stopSignal = 'SIGTERM', kill = process.kill.bind(process) } = options;
  const stopForwarding = forwardStdin(cli, process, options.stdin);
  cli.onSignal((signal) => void kill(signal === 'SIGTERM' ? stopSignal : signal), options.graceMs);
  let firstAt: number | undefined;
  const onOutput = (): void => {
    firstAt ??= performance.now();
  };
  const stdout = new OutputStream(cli.json, onOutput);
  const stderr = new OutputStream(cli.json, onOutput);
  const drained = Promise.all([stdout.pass(process.stdout, cli.stdout), stderr.pass(process.stderr, cli.stderr)]);
  let lost: unknown;
  const exit = await process.exit.catch((error: unknown) => {
    lost = error;
    return null;
  });
  await drained;
  stopForwarding();
  const [out, err] = [stdout.text(), stderr.text()];
  return {
    exit,
    lost,
    firstAt,
    stdout: out.text,
    stderr: err.text,
    encoding: { stdout: out.encoding, stderr: err.encoding },
    lastStderr: stderr.last(),
    truncated: { stdoutBytes: stdout.droppedBytes, stderrBytes: stderr.droppedBytes },
  };
}

/** Whether the program itself failed: of time limits and the OOM killer, `exitStatus` tells. */
export const hasFailed = ({ exitCode, timedOut, oomKilled }: ProcessExit): boolean =>
  exitCode !== null && exitCode !== 0 && !timedOut && !oomKilled;

/** @param what e.g. `the script` */
export function exitStatus(cli: Cli, exit: ProcessExit, what: string): number {
  const say = (text: string): void => {
    if (!cli.json) cli.stderr.write(`neurovisor: ${plain(text)}\n`);
  };
  if (cli.terminationStatus !== null) return cli.terminationStatus;
  if (exit.truncated) say(`${what} exceeded its output limit; the rest was discarded`);
  if (exit.timedOut) {
    say(`${what} exceeded its time limit and was killed`);
    return EXIT_TIMEOUT;
  }
  const { oomVictim: victim } = exit;
  const process = victim && `${victim.name}, pid ${victim.pid}, ${bytes(victim.rssBytes)}`;
  if (exit.oomKilled) {
    const named = process === null ? '' : ` (${process})`;
    say(`${what} was killed: the sandbox ran out of memory${named}; increase --memory`);
  } else if (process !== null && exit.exitCode !== 0) {
    say(`a process of ${what} was killed: the sandbox ran out of memory (${process})`);
  }
  if (exit.exitCode !== null) return exit.exitCode;
  return exitOfSignal(exit.signal ?? '');
}

/** Passes a stream on as it arrives; in JSON mode holds it instead, up to a limit. */
class OutputStream {
  /** Bytes beyond the limit. */
  droppedBytes = 0;
  readonly #isHeld: boolean;
  readonly #onOutput: () => void;
  readonly #chunks: Buffer[] = [];
  #heldBytes = 0;
  #last: Buffer = Buffer.alloc(0);

  constructor(isHeld: boolean, onOutput: () => void) {
    this.#isHeld = isHeld;
    this.#onOutput = onOutput;
  }

  async pass(from: Readable, to: Writable): Promise<void> {
    try {
      await pipeline(from, (source: AsyncIterable<Buffer>) => this.#shown(source), to, { end: false });
    } catch (error) {
      // The reader of our output went away (`| head`), or the guest did; neither is worth a message.
      ignore(error, 'output stream closed early');
      from.resume();
    }
  }

  text(): OutputText {
    return outputText(Buffer.concat(this.#chunks), this.droppedBytes > 0);
  }

  last(): string {
    return this.#last.toString('utf8');
  }

  async *#shown(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of source) {
      this.#onOutput();
      const last = Buffer.concat([this.#last, chunk.subarray(-LAST_STDERR_BYTES)]);
      this.#last = last.subarray(-LAST_STDERR_BYTES);
      if (this.#isHeld) this.#hold(chunk);
      else yield chunk;
    }
  }

  #hold(chunk: Buffer): void {
    const kept = chunk.subarray(0, JSON_OUTPUT_BYTES_MAX - this.#heldBytes);
    if (kept.length > 0) this.#chunks.push(kept);
    this.#heldBytes += kept.length;
    this.droppedBytes += chunk.length - kept.length;
  }
}

function forwardStdin(cli: Cli, process: Process, wanted: boolean): () => void {
  if (!wanted) return () => undefined;
  const aborter = new AbortController();
  const copying = pipeline(cli.stdin, process.stdin, { signal: aborter.signal });
  copying.catch((error: unknown) => {
    // EPIPE: the program ended without reading all input. Abort: it ended first.
    if (errorCode(error) !== 'ABORT_ERR') ignore(describeError(error), 'stdin was not read');
  });
  return () => {
    aborter.abort();
    if (cli.stdin instanceof Readable) cli.stdin.destroy();
  };
}
