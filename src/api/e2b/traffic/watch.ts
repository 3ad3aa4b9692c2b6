/** Ends connections whose client is gone, or which are unused for long. */
import { Socket } from 'node:net';
import type { Duplex, Writable } from 'node:stream';
import { TRAFFIC_LIMITS } from './limits.ts';

const { stalledMsMax, idleMsMax, halfClosedIdleMsMax } = TRAFFIC_LIMITS;

/**
 * Watches the socket of a client, whose timeout any byte in either direction restarts.
 * @param answer stream written to the client, or the other side of an upgraded connection
 */
export function watchIdle(client: Duplex, answer: Duplex | Writable): void {
  if (!(client instanceof Socket)) return;
  const socket = client;
  let idleMs = 0;
  let bytes = -1;
  const look = (): void => {
    const now = socket.bytesRead + socket.bytesWritten;
    idleMs = now === bytes ? idleMs + stalledMsMax : stalledMsMax;
    bytes = now;
    const limit = socket.readableEnded || answer.writableEnded ? halfClosedIdleMsMax : idleMsMax;
    if (socket.writableLength > 0 || idleMs >= limit) socket.destroy();
    else socket.setTimeout(stalledMsMax);
  };
  socket.on('timeout', look);
  answer.once('close', () => socket.off('timeout', look));
  socket.setTimeout(stalledMsMax);
}
