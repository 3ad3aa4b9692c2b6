/**
 * A connected unix socket of the relay. Its bytes stay in the kernel: they are peeked, forwarded, and then removed as
 * far as the receiver took them. So a relay buffers no bytes, whichever side does not read.
 */
import { EPOLL, type Epoll, type EpollHandler } from '../../../../sys/epoll.ts';
import { write, writeBytes } from '../../../../sys/fd.ts';
import { ERRNO } from '../../../../sys/libc.ts';
import { allocateNative } from '../../../../sys/memory.ts';
import { FdChannel, peekSocket, SHUTDOWN, shutdownSocket } from '../../../../sys/socket.ts';
import type { FdLedger } from './fd-ledger.ts';

/** Maximum bytes of one peek, and of one send. */
export const PIECE_BYTES_MAX = 64 * 1024;
/** Returned by `peek` if nothing waits now. */
export const WOULD_BLOCK = -1;
export const BROKEN = -2;

const READ_EVENTS = (EPOLL.in | EPOLL.readHangUp | EPOLL.edge) >>> 0;
const READ_WRITE_EVENTS = (READ_EVENTS | EPOLL.out) >>> 0;

/** The thread's only buffers for bytes of guests. */
const piece = allocateNative(PIECE_BYTES_MAX);
/** Maximum descriptors in one message (SCM_MAX_FD). With less room the kernel would close the rest on this thread. */
const taken = new FdChannel(PIECE_BYTES_MAX, 253);

export interface SocketOwner {
  readonly epoll: Epoll;
  readonly ledger: FdLedger;
  /** Closes descriptors in the main thread, since closing them may take long. */
  discard(fds: readonly number[]): void;
  /** Runs a handler; its fault ends only the owner. */
  guard(action: () => void): void;
}

export class RelaySocket implements EpollHandler {
  /** Bytes, or the end, may have arrived. */
  onInput: () => void = () => undefined;
  /** Called after a partial send: there may be room. */
  onRoom: () => void = () => undefined;
  onClose: (() => void)[] = [];
  readonly #fd: number;
  readonly #owner: SocketOwner;
  #isEnding = false;
  #isClosed = false;

  /** @param fd owned by the socket; already in the ledger */
  constructor(fd: number, owner: SocketOwner) {
    this.#fd = fd;
    this.#owner = owner;
    if (owner.epoll.add(fd, READ_EVENTS, this) < 0) this.close();
  }

  /** The peer will send nothing more than the waiting bytes. */
  get isEnding(): boolean {
    return this.#isEnding;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  onEvents(events: number): void {
    this.#owner.guard(() => {
      if ((events & (EPOLL.readHangUp | EPOLL.hangUp | EPOLL.error)) !== 0) this.#isEnding = true;
      if ((events & EPOLL.out) !== 0) {
        this.#owner.epoll.modify(this.#fd, READ_EVENTS);
        this.onRoom();
      }
      if (!this.#isClosed) this.onInput();
    });
  }

  /** Reports again what has already arrived. */
  listen(): void {
    if (!this.#isClosed) this.#owner.epoll.modify(this.#fd, READ_EVENTS);
  }

  /** Peeks at the next bytes, for `send` and `head`. @returns bytes, 0 at the end, WOULD_BLOCK or BROKEN */
  peek(bytesMax: number): number {
    if (this.#isClosed) return BROKEN;
    return resultOf(peekSocket(this.#fd, piece.address, bytesMax));
  }

  /** A copy of the peeked bytes. */
  head(bytes: number): Uint8Array {
    return new Uint8Array(piece.buffer, 0, bytes).slice();
  }

  /**
   * Removes peeked bytes.
   * @returns false if they are gone: the socket is broken
   * @throws if descriptors come with them
   */
  take(bytes: number): boolean {
    for (let left = bytes; left > 0; ) {
      const count = this.#receive(left);
      if (count <= 0) return false;
      left -= count;
    }
    return true;
  }

  /** Sends bytes that another socket has peeked. @returns bytes taken, WOULD_BLOCK or BROKEN */
  send(bytes: number): number {
    return this.#sent(this.#isClosed ? BROKEN : resultOf(write(this.#fd, piece.address, bytes)), bytes);
  }

  /** @returns whether all were taken, as by a socket that nothing was sent to before */
  sendLine(line: Uint8Array): boolean {
    return !this.#isClosed && writeBytes(this.#fd, line) === line.length;
  }

  endWrite(): void {
    if (!this.#isClosed) shutdownSocket(this.#fd, SHUTDOWN.write);
  }

  /**
   * The peer can send nothing more. Drops waiting bytes: the peer would take a close with unread bytes for an error.
   */
  endRead(): void {
    if (this.#isClosed) return;
    shutdownSocket(this.#fd, SHUTDOWN.read);
    while (this.#receive(PIECE_BYTES_MAX) > 0);
  }

  /** Idempotent. @throws if descriptors wait in it, or in one that `onClose` closes; that one is not closed then */
  close(): void {
    if (this.#isClosed) return;
    this.endRead();
    try {
      this.#leave();
    } finally {
      // Also if its partner, which closes with it, has descriptors.
      this.#owner.ledger.close(this.#fd);
    }
  }

  /** Like `close`, even if descriptors wait in it. */
  abandon(): void {
    if (this.#isClosed) return;
    for (const how of [SHUTDOWN.read, SHUTDOWN.write]) shutdownSocket(this.#fd, how);
    this.#leave();
    this.#owner.discard([this.#fd]);
  }

  #leave(): void {
    this.#isClosed = true;
    this.#owner.epoll.remove(this.#fd);
    for (const listener of this.onClose) listener();
  }

  /** No Firecracker sends descriptors, unless it was compromised to block this thread with them. */
  #receive(bytes: number): number {
    const { received, fds, truncated } = taken.receive(this.#fd, bytes);
    if (fds.length > 0 || truncated) {
      this.#owner.discard(fds);
      throw new Error('descriptors came over the channel');
    }
    return received;
  }

  #sent(count: number, wanted: number): number {
    if (count !== BROKEN && count < wanted) this.#owner.epoll.modify(this.#fd, READ_WRITE_EVENTS);
    return count;
  }
}

function resultOf(count: number): number {
  if (count >= 0) return count;
  return count === -ERRNO.EAGAIN || count === -ERRNO.EINTR ? WOULD_BLOCK : BROKEN;
}
