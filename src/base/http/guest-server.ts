/** The HTTP server of a unix socket at which one guest sends requests (io). Node's parser runs in strict mode. */
import { chmod } from 'node:fs/promises';
import { createServer, type RequestListener, type Server } from 'node:http';
import type { Duplex } from 'node:stream';
import { errorCode } from '../errors.ts';

export interface GuestServerLimits {
  readonly connectionsMax: number;
  readonly requestHeaderBytesMax: number;
  readonly requestHeadersMax: number;
  readonly headersTimeoutMs: number;
  readonly idleConnectionTimeoutMs: number;
}

/** @param requestTimeoutMs from the first byte of a request to the last of its body */
export function guestServer(limits: GuestServerLimits, requestTimeoutMs: number, onRequest: RequestListener): Server {
  const server = createServer(
    {
      maxHeaderSize: limits.requestHeaderBytesMax,
      headersTimeout: limits.headersTimeoutMs,
      requestTimeout: requestTimeoutMs,
      keepAliveTimeout: limits.idleConnectionTimeoutMs,
      connectionsCheckingInterval: Math.min(1_000, limits.headersTimeoutMs / 2),
      insecureHTTPParser: false,
      noDelay: true,
    },
    onRequest,
  );
  server.maxConnections = limits.connectionsMax;
  // One more than allowed, to detect a request with too many.
  server.maxHeadersCount = limits.requestHeadersMax + 1;
  return server;
}

/** @param onError gets errors after the start @throws Node's error if it can't listen */
export async function listenPrivately(
  server: Server,
  socketPath: string,
  onError: (error: Error) => void,
): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(socketPath, resolve);
  });
  server.on('error', onError);
  // The directory is private already; the mode must not depend on the umask.
  await chmod(socketPath, 0o600);
}

/** Closes all connections; resolves when the server is closed. */
export async function closeServer(server: Server): Promise<void> {
  const closed = new Promise<void>((resolve) => {
    server.close(() => resolve());
  });
  server.closeAllConnections();
  await closed;
}

/** Whether the sender of an unreadable request may still get an answer. */
export function isAnswerable(error: Error, socket: Duplex): boolean {
  return socket.writable && errorCode(error) !== 'ECONNRESET';
}
