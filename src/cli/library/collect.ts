/** Runs a program to its end and collects its output. */
import type { Readable } from 'node:stream';
import { MIB } from '../../base/units.ts';
import type { RunOptions as GuestRunOptions, Process } from '../../machine/guest/link.ts';
import { withAbort } from './abort.ts';
import type { BufferOptions, RunOptions, RunResult, TextOptions } from './options.ts';

const KEPT_BYTES_MAX = 16 * MIB;

type Begin = (options: GuestRunOptions) => Promise<Process>;

export async function collect(begin: Begin, options: BufferOptions): Promise<RunResult<Buffer>>;
export async function collect(begin: Begin, options: TextOptions): Promise<RunResult>;
export async function collect(begin: Begin, options: RunOptions): Promise<RunResult<string | Buffer>>;
export async function collect(begin: Begin, options: RunOptions): Promise<RunResult<string | Buffer>> {
  return await withAbort(options.signal, () => run(begin, options));
}

async function run(begin: Begin, options: RunOptions): Promise<RunResult<string | Buffer>> {
  const { signal, ...rest } = withoutCallbacks(options);
  const process = await begin({ ...rest, stdin: options.stdin !== undefined });
  const onAbort = (): void => process.kill('SIGKILL');
  if (signal?.aborted === true) onAbort();
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    if (options.stdin !== undefined) process.stdin.end(options.stdin);
    const [stdout, stderr, exit] = await Promise.all([
      keep(process.stdout, options.onStdout),
      keep(process.stderr, options.onStderr),
      process.exit,
    ]);
    signal?.throwIfAborted();
    const truncated = exit.truncated || stdout.dropped || stderr.dropped;
    const shown = ({ bytes }: Kept): string | Buffer =>
      options.encoding === 'buffer' ? bytes : bytes.toString('utf8');
    return { ...exit, stdout: shown(stdout), stderr: shown(stderr), truncated };
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
}

export function withoutCallbacks(options: RunOptions): GuestRunOptions & { signal?: AbortSignal } {
  const { stdin: _stdin, onStdout: _onStdout, onStderr: _onStderr, encoding: _encoding, ...rest } = options;
  return rest;
}

interface Kept {
  readonly bytes: Buffer;
  /** True: the stream had more than this. */
  readonly dropped: boolean;
}

async function keep(stream: Readable, onChunk?: (chunk: Buffer) => void): Promise<Kept> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  let dropped = false;
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    onChunk?.(chunk);
    const part = chunk.subarray(0, KEPT_BYTES_MAX - bytes);
    if (part.length < chunk.length) dropped = true;
    if (part.length === 0) continue;
    bytes += part.length;
    chunks.push(part);
  }
  return { bytes: Buffer.concat(chunks), dropped };
}
