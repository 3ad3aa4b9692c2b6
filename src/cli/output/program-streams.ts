/**
 * A program of a guest on the streams of this command: input, output, Ctrl-C and its exit status.
 * `run` and `exec` do it with this.
 */
import { Readable, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { describeError, errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { MIB } from '../../base/units.ts';
import type { Process, ProcessExit } from '../../guest/link.ts';
import type { Cli } from '../cli.ts';
import { EXIT_TIMEOUT, exitOfSignal } from '../exit-status.ts';
import { bytes } from './table.ts';

/** In JSON mode the output is held to print it as one object. */
const JSON_OUTPUT_BYTES_MAX = 16 * MIB;

export interface Relayed {
  /** Null: its end is not known, because the connection or the sandbox went away. */
  readonly exit: ProcessExit | null;
  /** Why `exit` is null. */
  readonly lost: unknown;
  /** When the first byte of output came, on the monotonic clock; undefined: there was none. */
  readonly firstAt: number | undefined;
  /** Only in JSON mode: then nothing of it was passed on. */
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * Resolves when the program has ended and all its output has been written.
 * @param graceMs see `Cli.onInterrupt`
 */
export async function relay(
  cli: Cli,
  process: Process,
  options: { readonly stdin: boolean; readonly graceMs: number | null },
): Promise<Relayed> {
  const stopForwarding = forwardStdin(cli, process, options.stdin);
  cli.onInterrupt(() => process.kill('SIGINT'), options.graceMs);
  const output = new Output(cli);
  const drained = Promise.all([
    output.pass(process.stdout, cli.stdout),
    output.pass(process.stderr, cli.stderr),
  ]);
  let lost: unknown;
  const exit = await process.exit.catch((error: unknown) => {
    lost = error;
    return null;
  });
  await drained;
  stopForwarding();
  const [stdout, stderr] = [output.text(cli.stdout), output.text(cli.stderr)];
  return { exit, lost, firstAt: output.firstAt, stdout, stderr };
}

/** @param what e.g. `the script` */
export function exitStatus(cli: Cli, exit: ProcessExit, what: string): number {
  const say = (text: string): void => {
    if (!cli.json) cli.stderr.write(`neurovisor: ${text}\n`);
  };
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

/** Passes a stream on as it comes; in JSON mode keeps it instead, up to a limit. */
class Output {
  firstAt: number | undefined;
  readonly #cli: Cli;
  readonly #kept = new Map<Writable, { chunks: Buffer[]; bytes: number }>();

  constructor(cli: Cli) {
    this.#cli = cli;
  }

  async pass(from: Readable, to: Writable): Promise<void> {
    const kept = { chunks: [] as Buffer[], bytes: 0 };
    this.#kept.set(to, kept);
    const note = (): void => {
      this.firstAt ??= performance.now();
    };
    const { json } = this.#cli;
    try {
      await pipeline(
        from,
        async function* (source: AsyncIterable<Buffer>) {
          for await (const chunk of source) {
            note();
            if (!json) yield chunk;
            else if (kept.bytes < JSON_OUTPUT_BYTES_MAX) {
              kept.bytes += chunk.length;
              kept.chunks.push(chunk);
            }
          }
        },
        to,
        { end: false },
      );
    } catch (error) {
      // The reader of our output went away (`| head`), or the guest did; neither is worth a message.
      ignore(error, 'output stream closed early');
      from.resume();
    }
  }

  text(of: Writable): string {
    return Buffer.concat(this.#kept.get(of)?.chunks ?? []).toString('utf8');
  }
}

function forwardStdin(cli: Cli, process: Process, wanted: boolean): () => void {
  if (!wanted) return () => undefined;
  const aborter = new AbortController();
  const copying = pipeline(cli.stdin, process.stdin, { signal: aborter.signal });
  copying.catch((error: unknown) => {
    // EPIPE: the script ended without reading all of it. Abort: it ended first.
    if (errorCode(error) !== 'ABORT_ERR') ignore(describeError(error), 'stdin was not read');
  });
  return () => {
    aborter.abort();
    if (cli.stdin instanceof Readable) cli.stdin.destroy();
  };
}
