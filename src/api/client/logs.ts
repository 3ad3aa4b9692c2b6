/** The log stream of one sandbox. */
import type { IncomingMessage } from 'node:http';
import type { LogChunk } from '../../sandbox/contract/control.ts';
import { logChunk } from './answers.ts';
import { answerInvalid, ClientError } from './errors.ts';
import { serverSent } from './server-sent.ts';

/** Room for a chunk of 16 KiB with every character escaped. */
const LINE_CHARACTERS_MAX = 256 * 1024;

/** @throws ClientError `daemon_lost` if the stream breaks off, SandboxError if the request is refused */
export async function* readLogs(
  open: (signal: AbortSignal) => Promise<IncomingMessage>,
  signal: AbortSignal,
): AsyncGenerator<LogChunk, void> {
  const stream = await open(signal);
  try {
    for await (const { event, data } of serverSent(stream, LINE_CHARACTERS_MAX)) {
      if (event === 'end') return;
      const read = logChunk.read(JSON.parse(data));
      if (read === null) throw answerInvalid('malformed log chunk');
      yield read.value;
    }
  } catch (error) {
    if (signal.aborted) return;
    throw error instanceof ClientError ? error : lost(error);
  } finally {
    stream.destroy();
  }
  if (!signal.aborted) throw lost(undefined);
}

export function lost(cause: unknown): ClientError {
  const remedy = 'restart it: neurovisor serve';
  return new ClientError('daemon_lost', 'lost the connection to the daemon', { cause, remedy });
}
