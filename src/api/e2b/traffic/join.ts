/**
 * Joins the two ends of an upgraded connection: bytes both ways, unread. Back-pressure and half-closes pass through.
 */
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { ignore } from '../../../base/ignore.ts';
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

export function splice({ client, clientHead, message, connection, head }: Upgraded): void {
  connection.on('error', (error) => ignore(error, 'reported by the close that follows'));
  endWith(client, connection);
  endWith(connection, client);
  if (client.destroyed || connection.destroyed) return;
  client.write(switching(message), 'latin1');
  if (head.length > 0) connection.unshift(head);
  if (clientHead.length > 0) client.unshift(clientHead);
  client.pipe(connection);
  connection.pipe(client);
  watchIdle(client, connection);
}

function switching({ rawHeaders, headers }: IncomingMessage): string {
  const kept = answerHeaders(rawHeaders, 101);
  const lines = kept.flatMap((name, index) => (index % 2 === 0 ? [`${name}: ${kept[index + 1] ?? ''}\r\n`] : []));
  const protocol = headers.upgrade === undefined ? '' : `Upgrade: ${headers.upgrade}\r\n`;
  return `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n${protocol}${lines.join('')}\r\n`;
}

/** Destroys `other` if `one` closes before both its directions have ended in order. */
function endWith(one: Duplex, other: Duplex): void {
  const end = (): void => {
    if (!one.readableEnded || !one.writableFinished) other.destroy();
  };
  if (one.destroyed) end();
  else one.once('close', end);
}
