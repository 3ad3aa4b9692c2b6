/** Joins the two ends of an upgraded connection to a program's port. */
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { splice } from '../../rest/splice.ts';
import { answerHeaders } from './headers.ts';
import { watchIdle } from './watch.ts';

export interface Upgraded {
  readonly client: Duplex;
  /** Bytes that the client sent right after its request. */
  readonly clientHead: Buffer;
  /** The program's answer, 101. */
  readonly message: IncomingMessage;
  readonly connection: Duplex;
  /** Bytes that the program sent right after its answer. */
  readonly head: Buffer;
}

export function join({ client, clientHead, message, connection, head }: Upgraded): void {
  const ends = [
    { stream: client, head: clientHead },
    { stream: connection, head },
  ] as const;
  if (splice(...ends, switching(message))) watchIdle(client, connection);
}

function switching({ rawHeaders, headers }: IncomingMessage): string {
  const kept = answerHeaders(rawHeaders, 101);
  const lines = kept.flatMap((name, index) => (index % 2 === 0 ? [`${name}: ${kept[index + 1] ?? ''}\r\n`] : []));
  const protocol = headers.upgrade === undefined ? '' : `Upgrade: ${headers.upgrade}\r\n`;
  return `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n${protocol}${lines.join('')}\r\n`;
}
