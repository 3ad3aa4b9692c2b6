/**
 * Forwards a port of this machine's loopback to a port of a guest's loopback (io). Each connection is one operation of
 * the guest's agent, so it needs no network card, and works with a daemon's sandboxes, too.
 *
 *     program ──► 127.0.0.1:localPort ──► connect ──► channel ──► agent ──► 127.0.0.1:guestPort in the guest
 *
 * Backpressure and half-closes pass through. A connection that can't be made or fails on our side is reset. A reset by
 * the guest, or a disconnect by a pause, looks like an orderly close: the unix sockets of the channel and of a daemon
 * cannot signal a reset.
 */
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { CodedError, errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';

export type ForwardErrorCode =
  /** Another program has the local port. */
  | 'port_in_use'
  /** This user may not listen on the local port. */
  | 'not_permitted'
  | 'listen_failed'
  /** The connection limit of a forwarded port is reached. */
  | 'too_many';

export class ForwardError extends CodedError<ForwardErrorCode> {}

export const FORWARD_LIMITS = {
  /** Per forwarded port; further ones are reset. Half of an agent's limit. */
  connectionsMax: 64,
} as const;

const ADDRESS = '127.0.0.1';

export interface PortForward extends AsyncDisposable {
  readonly guestPort: number;
  readonly address: typeof ADDRESS;
  readonly localPort: number;
  /** Stops listening and resets what is open. Idempotent. */
  close(): Promise<void>;
}

export interface ForwardOptions {
  readonly guestPort: number;
  /** Null: the guest's number if it is free here, else any free port. */
  readonly localPort: number | null;
  /** Opens a stream to that port of the guest; aborting the signal drops it. */
  readonly connect: (port: number, signal: AbortSignal) => Promise<Duplex>;
  /** Called for each connection that was reset because connecting to the guest failed. */
  readonly onRefused?: (error: unknown) => void;
}

/** Resolves when the port is open. @throws ForwardError `port_in_use`, `not_permitted`, `listen_failed` */
export async function forwardPort(options: ForwardOptions): Promise<PortForward> {
  const forward = new ListeningForward(options);
  await forward.listen();
  return forward;
}

class ListeningForward implements PortForward {
  readonly guestPort: number;
  readonly address = ADDRESS;
  readonly #options: ForwardOptions;
  readonly #server: Server;
  readonly #clients = new Set<Socket>();
  #closing: Promise<void> | undefined;

  constructor(options: ForwardOptions) {
    this.#options = options;
    this.guestPort = options.guestPort;
    this.#server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
      void this.#serve(client);
    });
  }

  get localPort(): number {
    return (this.#server.address() as AddressInfo | null)?.port ?? 0;
  }

  async listen(): Promise<void> {
    const { guestPort, localPort } = this.#options;
    try {
      await this.#listenAt(localPort ?? guestPort);
    } catch (error) {
      if (localPort !== null || !isTaken(error)) throw listenError(localPort ?? guestPort, error);
      ignore(error, 'any other port will do');
      await this.#listenAt(0);
    }
    this.#server.on('error', (error) => this.#options.onRefused?.(error));
  }

  close(): Promise<void> {
    this.#closing ??= new Promise((resolve) => {
      this.#server.close(() => resolve());
      for (const client of this.#clients) client.resetAndDestroy();
    });
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #listenAt(port: number): Promise<void> {
    this.#server.listen({ host: ADDRESS, port });
    await once(this.#server, 'listening');
  }

  async #serve(client: Socket): Promise<void> {
    const left = new AbortController();
    client.on('error', (error) => ignore(error, 'reported by the close that follows'));
    client.once('close', () => {
      this.#clients.delete(client);
      left.abort();
    });
    try {
      this.#take(client);
      join(client, await this.#options.connect(this.guestPort, left.signal));
    } catch (error) {
      client.resetAndDestroy();
      if (left.signal.aborted) ignore(error, 'the local program disconnected first');
      else this.#options.onRefused?.(error);
    }
  }

  /** @throws ForwardError `too_many` */
  #take(client: Socket): void {
    if (this.#clients.size >= FORWARD_LIMITS.connectionsMax) {
      const message = `port ${this.guestPort}: ${FORWARD_LIMITS.connectionsMax} connections are open`;
      throw new ForwardError('too_many', message, { remedy: 'close some of them first' });
    }
    this.#clients.add(client);
  }
}

function join(client: Socket, guest: Duplex): void {
  guest.on('error', (error) => ignore(error, 'reported by the close that follows'));
  whenCutOff(client, () => guest.destroy());
  whenCutOff(guest, () => {
    // Data that the guest sent before its end is still delivered.
    if (guest.readableEnded) client.destroySoon();
    else client.resetAndDestroy();
  });
  if (client.destroyed || guest.destroyed) return;
  client.pipe(guest);
  guest.pipe(client);
}

/** Calls `run` if the stream closes before both directions have ended. */
function whenCutOff(stream: Duplex, run: () => void): void {
  const closed = (): void => {
    if (!stream.readableEnded || !stream.writableFinished) run();
  };
  if (stream.destroyed) closed();
  else stream.once('close', closed);
}

/** In use by another program, or reserved for root (below 1024). */
function isTaken(error: unknown): boolean {
  return ['EADDRINUSE', 'EACCES'].includes(errorCode(error) ?? '');
}

function listenError(port: number, cause: unknown): ForwardError {
  const message = `cannot listen on ${ADDRESS}:${port}`;
  switch (errorCode(cause)) {
    case 'EADDRINUSE': {
      const remedy = 'stop the program that listens there, or use another local port, or none';
      return new ForwardError('port_in_use', message, { cause, remedy });
    }
    case 'EACCES': {
      const remedy = 'use a local port of 1024 or higher';
      return new ForwardError('not_permitted', message, { cause, remedy });
    }
    default:
      return new ForwardError('listen_failed', message, { cause });
  }
}
