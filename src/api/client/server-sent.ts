/** Reads server-sent events (WHATWG HTML section 9.2) with one line of data each. */
import type { IncomingMessage } from 'node:http';
import { CodedError } from '../../base/errors.ts';
import type { Answer } from './answers.ts';
import { answerError, answerInvalid, ClientError } from './errors.ts';

export interface ServerSent {
  /** Empty if there is none. */
  readonly event: string;
  readonly data: string;
}

/** @throws ClientError `answer_invalid` for a line longer than `lineCharactersMax` */
export async function* serverSent(
  stream: IncomingMessage,
  lineCharactersMax: number,
): AsyncGenerator<ServerSent, void, undefined> {
  let rest = '';
  let event = '';
  stream.setEncoding('utf8');
  for await (const text of stream as AsyncIterable<string>) {
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    if (rest.length > lineCharactersMax) throw answerInvalid('an event exceeds its size limit');
    for (const line of lines) {
      if (line === '') event = '';
      else if (line.startsWith('event: ')) event = line.slice(7);
      else if (line.startsWith('data: ')) yield { event, data: line.slice(6) };
    }
  }
}

/**
 * The values of a stream that ends with `event: end`; none after an abort.
 * @param what a value is, for errors
 * @throws ClientError `daemon_lost` if the stream breaks off; the daemon's error for `event: error`
 */
export async function* untilEnd<T>(
  stream: IncomingMessage,
  {
    answer,
    what,
    lineCharactersMax,
  }: { readonly answer: Answer<T>; readonly what: string; readonly lineCharactersMax: number },
  signal: AbortSignal,
): AsyncGenerator<T, void, undefined> {
  try {
    for await (const { event, data } of serverSent(stream, lineCharactersMax)) {
      if (event === 'end') return;
      const body: unknown = JSON.parse(data);
      if (event === 'error') throw answerError(200, body);
      const read = answer.read(body);
      if (read === null) throw answerInvalid(`malformed ${what}`);
      yield read.value;
    }
  } catch (error) {
    if (signal.aborted) return;
    throw error instanceof CodedError ? error : lost(error);
  } finally {
    stream.destroy();
  }
  if (!signal.aborted) throw lost(undefined);
}

function lost(cause: unknown): ClientError {
  const remedy = 'restart it: neurovisor serve';
  return new ClientError('daemon_lost', 'lost the connection to the daemon', { cause, remedy });
}
