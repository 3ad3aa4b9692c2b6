/** The channel contract of `driver.ts` over plain unix sockets: the handshake, and dialing out. */
import { rm } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { Duplex, Transform } from 'node:stream';
import { ignore } from '../../../src/base/ignore.ts';
import type { ChannelStats } from '../../../src/machine/vmm/driver.ts';

/** `CONNECT 4294967295\n` with some margin. */
const HANDSHAKE_BYTES_MAX = 32;
const CONNECTIONS_MAX = 1_024;
/** Host ports of accepted connections start here, as in Firecracker. */
const FIRST_HOST_PORT = 1 << 30;

export class FakeChannel {
  readonly #path: string;
  readonly #handlers = new Map<number, (stream: Duplex) => void>();
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;
  #running: PromiseWithResolvers<void> | undefined;
  #opened = 0;
  #refused = 0;
  #bytesGuestToHost = 0;
  #bytesHostToGuest = 0;

  constructor(path: string) {
    this.#path = path;
  }

  /** Idempotent. */
  async open(): Promise<void> {
    if (this.#server !== undefined) return;
    const server = createServer({ allowHalfOpen: true }, (socket) => void this.#accept(socket));
    server.maxConnections = CONNECTIONS_MAX;
    this.#server = server;
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(this.#path, resolve);
    });
  }

  /** Ends every connection and removes the socket. Idempotent. */
  async close(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    this.resume();
    for (const socket of this.#sockets) socket.destroy();
    if (server === undefined) return;
    await new Promise<void>((resolve) => server.close(() => resolve()));
    await rm(this.#path, { force: true });
  }

  /** A paused guest reads nothing; connections to it wait. */
  pause(): void {
    this.#running ??= Promise.withResolvers();
  }

  resume(): void {
    this.#running?.resolve();
    this.#running = undefined;
  }

  /** Lets the guest listen; a later handler replaces the earlier one. */
  onConnect(port: number, handler: (stream: Duplex) => void): void {
    this.#handlers.set(port, handler);
  }

  /** Dials the host from the guest. Rejects with the socket's error if nothing listens at the port. */
  async connectToHost(port: number): Promise<Duplex> {
    await this.#running?.promise;
    const socket = connect({ path: `${this.#path}_${port}`, allowHalfOpen: true });
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once('connect', resolve);
        socket.once('error', reject);
      });
    } catch (error) {
      this.#refused += 1;
      throw error;
    }
    return this.#adopt(socket);
  }

  stats(): ChannelStats {
    const open = [...this.#sockets];
    const sum = (field: 'bytesRead' | 'bytesWritten'): number =>
      open.reduce((total, socket) => total + socket[field], 0);
    return {
      bytesGuestToHost: this.#bytesGuestToHost + sum('bytesWritten'),
      bytesHostToGuest: this.#bytesHostToGuest + sum('bytesRead'),
      connectionsOpened: this.#opened,
      connectionsOpen: open.length,
      connectionsRefused: this.#refused,
      throttledMsGuestToHost: 0,
      throttledMsHostToGuest: 0,
      protocolErrors: 0,
    };
  }

  async #accept(socket: Socket): Promise<void> {
    socket.on('error', (error) => ignore(error, 'a connection to a fake guest broke'));
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    await this.#running?.promise;
    const port = await readHandshake(socket).catch((error: unknown) => {
      ignore(error, 'a host program hung up during the handshake');
      return undefined;
    });
    const handler = port === undefined ? undefined : this.#handlers.get(port);
    this.#sockets.delete(socket);
    if (handler === undefined || socket.destroyed) {
      this.#refused += 1;
      socket.destroy();
      return;
    }
    socket.write(`OK ${FIRST_HOST_PORT + this.#opened}\n`);
    handler(this.#adopt(socket));
  }

  /** @returns the guest's end, which pauses with the guest */
  #adopt(socket: Socket): Duplex {
    this.#opened += 1;
    this.#sockets.add(socket);
    socket.on('error', (error) => ignore(error, 'a connection of a fake guest broke'));
    socket.once('close', () => {
      this.#sockets.delete(socket);
      this.#bytesGuestToHost += socket.bytesWritten;
      this.#bytesHostToGuest += socket.bytesRead;
    });
    return gated(socket, () => this.#running?.promise);
  }
}

function gated(socket: Socket, running: () => Promise<void> | undefined): Duplex {
  const gate = (): Transform =>
    new Transform({
      transform: (bytes, _encoding, done) => void wait(() => done(null, bytes)),
      flush: (done) => void wait(() => done()),
    });
  const wait = async (then: () => void): Promise<void> => {
    await running();
    then();
  };
  const outgoing = gate();
  outgoing.pipe(socket);
  const stream = Duplex.from({ readable: socket.pipe(gate()), writable: outgoing });
  stream.on('error', (error: unknown) => ignore(error, 'a connection of a fake guest broke'));
  // An early end of one side ends the other too; a regular end comes through the pipes.
  socket.once('close', () => {
    if (!socket.readableEnded) stream.destroy();
  });
  stream.once('close', () => {
    if (!stream.writableFinished) socket.destroy();
    else if (!stream.readableEnded) outgoing.once('close', () => socket.destroySoon());
  });
  return stream;
}

/** @returns the port of `CONNECT <port>\n`; bytes after it stay in the socket */
async function readHandshake(socket: Socket): Promise<number | undefined> {
  let head = Buffer.alloc(0);
  for await (const bytes of socket.iterator({ destroyOnReturn: false })) {
    head = Buffer.concat([head, bytes as Buffer]);
    const end = head.indexOf('\n');
    if (end < 0 && head.length <= HANDSHAKE_BYTES_MAX) continue;
    if (end >= 0 && end + 1 < head.length) socket.unshift(head.subarray(end + 1));
    const match = /^CONNECT (\d{1,10})$/.exec(head.toString('latin1', 0, Math.max(0, end)));
    return match === null ? undefined : Number(match[1]);
  }
  return undefined;
}
