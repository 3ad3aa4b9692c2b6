/**
 * The host's end of a channel: unix sockets in Firecracker's convention (firecracker, docs/vsock.md). Host clients
 * connect to `<channel>` and send `CONNECT <port>`; a guest's connection to port P goes to the listener at
 * `<channel>_<P>`.
 */
import { EPOLL, type Epoll, type EpollHandler } from '../../sys/epoll.ts';
import { closeFd, read, readv, writeBytes, writev } from '../../sys/fd.ts';
import { ERRNO } from '../../sys/libc.ts';
import { addressOf, allocateNative } from '../../sys/memory.ts';
import { acceptUnix, connectUnix, peekSocket, SHUTDOWN, setSendBuffer, shutdownSocket } from '../../sys/socket.ts';
import type { Connection } from './connection.ts';
import { parseConnectLine } from './handshake.ts';
import { type ConnectResult, type HostSocket, READ_BROKEN, READ_WOULD_BLOCK, WRITE_BROKEN } from './host-socket.ts';
import { CONNECT_LINE_BYTES_MAX, HANDSHAKE_TIMEOUT_MS, HANDSHAKES_MAX } from './limits.ts';
import type { Segments } from './segments.ts';

/** Linux's net.core.wmem_default. */
const SEND_BUFFER_DEFAULT_BYTES = 212_992;

export interface SocketEvents {
  readable(connection: Connection, isEnding: boolean): void;
  hasRoom(connection: Connection): void;
  hungUp(connection: Connection): void;
}

const READ_EVENTS = (EPOLL.in | EPOLL.readHangUp | EPOLL.edge) >>> 0;
const READ_WRITE_EVENTS = (READ_EVENTS | EPOLL.out) >>> 0;

/** Owns its fd until `close`. */
export class UdsSocket implements HostSocket<Connection>, EpollHandler {
  readonly #fd: number;
  readonly #epoll: Epoll;
  readonly #events: SocketEvents;
  #connection: Connection | undefined;

  constructor(fd: number, epoll: Epoll, events: SocketEvents) {
    this.#fd = fd;
    this.#epoll = epoll;
    this.#events = events;
  }

  serve(connection: Connection): void {
    this.#connection = connection;
    // A kernel buffer as large as the window: then bytes of the guest seldom have to be held here.
    if (connection.bufAlloc > SEND_BUFFER_DEFAULT_BYTES) setSendBuffer(this.#fd, connection.bufAlloc);
    // Adding reports at once what is already there.
    this.#epoll.add(this.#fd, READ_EVENTS, this);
  }

  onEvents(events: number): void {
    const connection = this.#connection;
    if (connection === undefined) return;
    if (events & EPOLL.out) this.#events.hasRoom(connection);
    if (events & (EPOLL.in | EPOLL.readHangUp)) this.#events.readable(connection, (events & EPOLL.readHangUp) !== 0);
    if (events & (EPOLL.hangUp | EPOLL.error)) this.#events.hungUp(connection);
  }

  read(segments: Segments): number {
    const received = readv(this.#fd, addressOf(segments.iovec), segments.count);
    if (received >= 0) return received;
    return received === -ERRNO.EAGAIN || received === -ERRNO.EINTR ? READ_WOULD_BLOCK : READ_BROKEN;
  }

  write(segments: Segments): number {
    return taken(writev(this.#fd, addressOf(segments.iovec), segments.count));
  }

  writeHeld(bytes: Uint8Array): number {
    return taken(writeBytes(this.#fd, bytes));
  }

  watchRoom(isOn: boolean): void {
    this.#epoll.modify(this.#fd, isOn ? READ_WRITE_EVENTS : READ_EVENTS);
  }

  endWrite(): void {
    shutdownSocket(this.#fd, SHUTDOWN.write);
  }

  endRead(): void {
    shutdownSocket(this.#fd, SHUTDOWN.read);
  }

  close(): void {
    this.#connection = undefined;
    this.#epoll.remove(this.#fd);
    closeFd(this.#fd);
  }
}

function taken(written: number): number {
  if (written >= 0) return written;
  return written === -ERRNO.EAGAIN || written === -ERRNO.EINTR ? 0 : WRITE_BROKEN;
}

/** Connects to the listener at `<channel>_<port>`. */
export function dialHost(
  channelPath: string,
  port: number,
  epoll: Epoll,
  events: SocketEvents,
): ConnectResult<Connection> {
  const fd = connectUnix(`${channelPath}_${port}`);
  if (fd >= 0) return new UdsSocket(fd, epoll, events);
  return fd === -ERRNO.EAGAIN ? 'busy' : 'refused';
}

interface Handshake extends EpollHandler {
  readonly fd: number;
  readonly deadlineMs: number;
}

/** Accepts host clients and reads their CONNECT lines. Owns the listening fd and unfinished clients. */
export class ChannelListener implements EpollHandler {
  readonly #fd: number;
  readonly #epoll: Epoll;
  readonly #now: () => number;
  readonly #connected: (fd: number, port: number) => void;
  /** Oldest first; all have the same timeout. */
  readonly #handshakes = new Set<Handshake>();

  /** @param connected takes ownership of the fd of a client that requested `port` */
  constructor(fd: number, epoll: Epoll, now: () => number, connected: (fd: number, port: number) => void) {
    this.#fd = fd;
    this.#epoll = epoll;
    this.#now = now;
    this.#connected = connected;
    epoll.add(fd, (EPOLL.in | EPOLL.edge) >>> 0, this);
  }

  onEvents(): void {
    while (this.#handshakes.size < HANDSHAKES_MAX) {
      const fd = acceptUnix(this.#fd);
      if (fd < 0) return;
      const handshake: Handshake = {
        fd,
        deadlineMs: this.#now() + HANDSHAKE_TIMEOUT_MS,
        onEvents: (events) => this.#read(handshake, events),
      };
      this.#handshakes.add(handshake);
      this.#epoll.add(fd, READ_EVENTS, handshake);
    }
  }

  /** Milliseconds until a client times out. */
  nextTimeoutMs(nowMs: number): number {
    for (const { deadlineMs } of this.#handshakes) return Math.max(0, deadlineMs - nowMs);
    return Number.POSITIVE_INFINITY;
  }

  handleTime(nowMs: number): void {
    for (const handshake of this.#handshakes) {
      if (handshake.deadlineMs > nowMs) return;
      this.#end(handshake);
      closeFd(handshake.fd);
    }
  }

  close(): void {
    this.#epoll.remove(this.#fd);
    closeFd(this.#fd);
    for (const handshake of this.#handshakes) {
      this.#epoll.remove(handshake.fd);
      closeFd(handshake.fd);
    }
    this.#handshakes.clear();
  }

  #read(handshake: Handshake, events: number): void {
    const { fd } = handshake;
    const peeked = peekSocket(fd, line.address, CONNECT_LINE_BYTES_MAX);
    if (peeked === -ERRNO.EAGAIN || peeked === -ERRNO.EINTR) return;
    const parsed = parseConnectLine(new Uint8Array(line.buffer, 0, Math.max(0, peeked)));
    const hasEnded = peeked <= 0 || (events & (EPOLL.readHangUp | EPOLL.hangUp)) !== 0;
    if (parsed.kind === 'incomplete' && !hasEnded) return;
    if (parsed.kind === 'connect') {
      // Exactly the line: the payload after it stays in the socket.
      read(fd, line.address, parsed.lineBytes);
      this.#end(handshake);
      this.#connected(fd, parsed.port);
    } else {
      this.#end(handshake);
      closeFd(fd);
    }
  }

  /** Frees a place, for which a client in the backlog may wait. */
  #end(handshake: Handshake): void {
    this.#epoll.remove(handshake.fd);
    this.#handshakes.delete(handshake);
    if (this.#handshakes.size === HANDSHAKES_MAX - 1) this.onEvents();
  }
}

const line = allocateNative(CONNECT_LINE_BYTES_MAX);
