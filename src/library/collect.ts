/** Runs a program to its end and collects its output. */
import type { Readable } from 'node:stream';
import { MIB } from '../base/units.ts';
import type { RunOptions as GuestRunOptions, Process } from '../guest/link.ts';
import type { RunOptions, RunResult } from './options.ts';

const KEPT_BYTES_MAX = 16 * MIB;

export async function collect(
  begin: (options: GuestRunOptions) => Promise<Process>,
  options: RunOptions,
): Promise<RunResult> {
  options.signal?.throwIfAborted();
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
    return { ...exit, stdout, stderr };
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
}

export function withoutCallbacks(options: RunOptions): GuestRunOptions & { signal?: AbortSignal } {
  const { stdin: _stdin, onStdout: _onStdout, onStderr: _onStderr, ...rest } = options;
  return rest;
}

async function keep(stream: Readable, onChunk?: (chunk: Buffer) => void): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    onChunk?.(chunk);
    if (bytes >= KEPT_BYTES_MAX) continue;
    const part = chunk.subarray(0, KEPT_BYTES_MAX - bytes);
    bytes += part.length;
    chunks.push(part);
  }
  return Buffer.concat(chunks).toString('utf8');
}
