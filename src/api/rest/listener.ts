/** One HTTP server at a unix socket or a port, with or without TLS (io). */
import { chmodSync, lstatSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type RequestListener, type Server } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { connect, createServer as createTcpServer, type Server as TcpServer } from 'node:net';
import type { Duplex } from 'node:stream';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { ApiError } from './errors.ts';
import { API_LIMITS } from './limits.ts';

export type ListenAt =
  | { readonly socketPath: string }
  | {
      /** 0 selects any free port. */
      readonly port: number;
      /** Address of this machine. Default: 127.0.0.1. */
      readonly host?: string | undefined;
      /** Default: no TLS. */
      readonly certificate?: Certificate | undefined;
      /** A socket that already listens there; the server closes it. Default: none. */
      readonly fd?: number | null;
    };

/** PEM; the certificate with its chain. */
export interface Certificate {
  readonly cert: string;
  readonly key: string;
}

export interface Handlers {
  readonly request: RequestListener;
  readonly upgrade: (request: Parameters<RequestListener>[0], client: Duplex, head: Buffer) => void;
  /** True to upgrade the connection. Other upgrades (h2c) are ignored and answered as plain requests. */
  readonly takesUpgrade: (request: Parameters<RequestListener>[0]) => boolean;
}

/** Only HTTP/1.1; clients that also offer 2 accept it. */
export const TLS_OPTIONS = { minVersion: 'TLSv1.2' as const, ALPNProtocols: ['http/1.1'] };

export const LOOPBACK = '127.0.0.1';

/** Size of sun_path without its NUL (unix(7)). */
const SOCKET_PATH_BYTES_MAX = 107;

/** @param certificate undefined for no TLS */
export function createListener(handlers: Handlers, certificate?: Certificate): Server {
  const options = {
    maxHeaderSize: API_LIMITS.headerBytesMax,
    headersTimeout: API_LIMITS.headersMsMax,
    // Bodies have their own limits: uploads may take as long as they make progress.
    requestTimeout: 0,
    keepAliveTimeout: API_LIMITS.keepAliveMs,
    connectionsCheckingInterval: API_LIMITS.headersMsMax / 2,
    noDelay: true,
    shouldUpgradeCallback: handlers.takesUpgrade,
  };
  const server =
    certificate === undefined
      ? createServer(options, handlers.request)
      : createTlsServer(
          // `createServer` allows half-open connections by itself; tunnels need them.
          {
            ...options,
            ...certificate,
            ...TLS_OPTIONS,
            handshakeTimeout: API_LIMITS.headersMsMax,
            allowHalfOpen: true,
          },
          handlers.request,
        );
  server.maxConnections = connectionsMax();
  // Closes idle connections, so that they can't keep others out; their clients reconnect.
  server.on('drop', () => server.closeIdleConnections());
  server.on('tlsClientError', (error, socket) => {
    ignore(error, 'scanners and clients that do not trust the certificate');
    socket.destroy();
  });
  server.on('upgrade', handlers.upgrade);
  server.on('clientError', answerBroken);
  return server;
}

const whereOf = (port: number, host: string): string => (host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`);

/** Fails before a long start, not after it. @throws ApiError as `listenAt` */
export async function checkPort(port: number, host: string): Promise<void> {
  const server = createTcpServer();
  await listening(server, whereOf(port, host), () => server.listen(port, host));
  await new Promise((done) => server.close(done));
}

/**
 * Listens at a port or a unix socket (mode 0600). Replaces the socket of a dead server.
 * @throws ApiError `already_running`, `listen_failed`
 */
export async function listenAt(server: Server, at: ListenAt): Promise<void> {
  if ('port' in at) {
    const { port, host = LOOPBACK, fd = null } = at;
    await listening(server, whereOf(port, host), () =>
      fd === null ? server.listen(port, host) : server.listen({ fd }),
    );
    if (fd !== null) requireAddress(server, port, host);
    return;
  }
  const { socketPath } = at;
  if (Buffer.byteLength(socketPath) > SOCKET_PATH_BYTES_MAX) {
    const message = `listen at ${socketPath}: the path is longer than ${SOCKET_PATH_BYTES_MAX} bytes`;
    throw new ApiError('listen_failed', message, { remedy: 'use a directory with a shorter path' });
  }
  if (await answersAt(socketPath)) throw alreadyRunning(socketPath);
  removeDead(socketPath);
  await listening(server, socketPath, () => {
    // The socket must never be open to others, not even before the chmod below.
    const mask = process.umask(0o177);
    try {
      server.listen(socketPath);
    } finally {
      process.umask(mask);
    }
  });
  chmodSync(socketPath, 0o600);
}

/** What was allowed for one address must not hold for another. @throws ApiError `listen_failed` */
function requireAddress(server: Server, port: number, host: string): void {
  const at = server.address();
  const given = typeof at === 'object' && at !== null ? at : { address: 'a path', port: 0 };
  if (given.address === host && (port === 0 || given.port === port)) return;
  server.close();
  throw new ApiError('listen_failed', `the inherited socket listens at ${whereOf(given.port, given.address)}`, {
    remedy: `let its unit listen at ${whereOf(port, host)}, or set port and host to its address`,
  });
}

export async function answersAt(socketPath: string): Promise<boolean> {
  const socket = connect(socketPath);
  try {
    return await new Promise<boolean>((resolve) => {
      socket.once('connect', () => resolve(true));
      socket.once('error', (error) => {
        ignore(error, 'no server listens there');
        resolve(false);
      });
    });
  } finally {
    socket.destroy();
  }
}

/** Removes the socket of a killed server, but no other file. @throws ApiError `listen_failed` */
function removeDead(socketPath: string): void {
  try {
    const there = lstatSync(socketPath, { throwIfNoEntry: false });
    if (there === undefined) return;
    if (!there.isSocket()) throw new Error('the path exists and is not a socket');
    rmSync(socketPath, { force: true });
  } catch (error) {
    throw new ApiError('listen_failed', `listen at ${socketPath}`, { cause: error });
  }
}

function listening(server: TcpServer, where: string, listen: () => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (error: Error): void => {
      const used = errorCode(error) === 'EADDRINUSE';
      reject(used ? alreadyRunning(where) : new ApiError('listen_failed', `listen at ${where}`, { cause: error }));
    };
    server.once('error', fail);
    server.once('listening', () => {
      server.off('error', fail);
      resolve();
    });
    listen();
  });
}

function alreadyRunning(where: string): ApiError {
  return new ApiError('already_running', `listen at ${where}: another server listens there`, {
    remedy: 'stop it, or choose another port or home',
  });
}

/**
 * Two thirds of the files that this process may open. The rest is for VMs, stores, and connections to sandboxes, which
 * are limited per sandbox.
 */
function connectionsMax(): number {
  const most = /^Max open files +\d+ +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1];
  const files = most === undefined ? Number.POSITIVE_INFINITY : Number(most);
  return Math.min(API_LIMITS.connectionsMax, Math.floor((files * 2) / 3));
}

/**
 * Answers connections that fail before there is a request: malformed, too large or too slow. Two APIs may share the
 * port, and it is unknown whose request it would be, so the body has the members of both.
 */
function answerBroken(error: Error, socket: Duplex): void {
  const code = errorCode(error);
  if (code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const [status, text, apiCode] =
    code === 'HPE_HEADER_OVERFLOW'
      ? [431, 'Request Header Fields Too Large', 'too_large']
      : code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? [408, 'Request Timeout', 'request_timeout']
        : [400, 'Bad Request', 'request_invalid'];
  const message = `invalid HTTP request: ${text}`;
  const body = JSON.stringify({ error: { code: apiCode, message, remedy: null }, code: status, message });
  socket.end(
    `HTTP/1.1 ${status} ${text}\r\ncontent-type: application/json\r\n` +
      `content-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`,
  );
  socket.once('finish', () => socket.destroy());
}

/** `null` for a unix socket. */
export function portOf(server: Server): number | null {
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : null;
}
