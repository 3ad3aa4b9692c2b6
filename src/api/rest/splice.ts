/** Joins the two ends of an upgraded connection: bytes both ways, unread. Back-pressure and half-closes pass through. */
import type { Duplex } from 'node:stream';
import { ignore } from '../../base/ignore.ts';

/** A connection, and the bytes that came right after its request or answer. */
export interface End {
  readonly stream: Duplex;
  readonly head?: Buffer;
}

/**
 * An end or failure on one side ends the other.
 * @param switching the answer 101, for the client
 * @returns false if one side was closed already
 */
export function splice(client: End, server: End, switching: string): boolean {
  server.stream.on('error', (error) => ignore(error, 'reported by the close that follows'));
  endWith(client.stream, server.stream);
  endWith(server.stream, client.stream);
  if (client.stream.destroyed || server.stream.destroyed) return false;
  client.stream.write(switching, 'latin1');
  for (const { stream, head } of [client, server]) {
    if (head !== undefined && head.length > 0) stream.unshift(head);
  }
  client.stream.pipe(server.stream);
  server.stream.pipe(client.stream);
  return true;
}

/** Destroys `other` if `one` closes before both its directions have ended in order. */
function endWith(one: Duplex, other: Duplex): void {
  const end = (): void => {
    if (!one.readableEnded || !one.writableFinished) other.destroy();
  };
  if (one.destroyed) end();
  else one.once('close', end);
}
