/** Reads server-sent events (WHATWG HTML section 9.2) with one line of data each. */
import type { IncomingMessage } from 'node:http';
import { answerInvalid } from './errors.ts';

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
