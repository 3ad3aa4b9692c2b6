/** What a sandbox of a daemon writes, as it does. */
import type { IncomingMessage } from 'node:http';
import { logChunk } from '../api/schema/answers.ts';
import type { LogChunk } from '../sandbox/control.ts';
import { answerInvalid, ClientError } from './errors.ts';
import { serverSent } from './server-sent.ts';

/** A chunk of 16 KiB, each of its characters escaped. */
const LINE_CHARACTERS_MAX = 256 * 1024;

/** @throws ClientError `daemon_lost` when it ends without its end, SandboxError when it can't be asked for */
export async function* readLogs(
  open: (signal: AbortSignal) => Promise<IncomingMessage>,
  signal: AbortSignal,
): AsyncGenerator<LogChunk, void> {
  const stream = await open(signal);
  try {
    for await (const { event, data } of serverSent(stream, LINE_CHARACTERS_MAX)) {
      if (event === 'end') return;
      const parsed = logChunk.safeParse(JSON.parse(data));
      if (!parsed.success) throw answerInvalid('a part of a log', parsed.error);
      yield parsed.data;
    }
  } catch (error) {
    if (signal.aborted) return;
    throw error instanceof ClientError ? error : lost(error);
  } finally {
    stream.destroy();
  }
  if (!signal.aborted) throw lost(undefined);
}

function lost(cause: unknown): ClientError {
  const remedy = 'start it again: neurovisor serve';
  return new ClientError('daemon_lost', 'the daemon went away', { cause, remedy });
}
