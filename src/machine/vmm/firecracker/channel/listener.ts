/** A listening unix socket of the relay. */

import type { Clock } from '../../../../base/clock.ts';
import { EPOLL, type EpollHandler } from '../../../../sys/epoll.ts';
import { ERRNO, SyscallError } from '../../../../sys/libc.ts';
import { acceptUnix } from '../../../../sys/socket.ts';
import type { SocketOwner } from './relay-socket.ts';

/** After this many, other sockets get their turn. */
const ACCEPTS_PER_EVENT_MAX = 16;
/** Pause after an error, for example because the process has no more descriptors. */
const PAUSE_MS = 100;

export class Listener implements EpollHandler {
  readonly #fd: number;
  readonly #owner: SocketOwner;
  readonly #clock: Clock;
  readonly #take: (fd: number) => void;
  #cancel: (() => void) | undefined;
  #isClosed = false;

  /**
   * @param fd owned by the listener; already in the ledger
   * @param take gets the descriptors of new connections, which it must record in the ledger
   */
  constructor(fd: number, owner: SocketOwner, clock: Clock, take: (fd: number) => void) {
    this.#fd = fd;
    this.#owner = owner;
    this.#clock = clock;
    this.#take = take;
    this.#watch();
  }

  onEvents(): void {
    this.#owner.guard(() => {
      for (let count = 0; count < ACCEPTS_PER_EVENT_MAX && !this.#isClosed; count += 1) {
        const fd = acceptUnix(this.#fd);
        if (fd === -ERRNO.EAGAIN) return;
        if (fd < 0) {
          this.#pause();
          return;
        }
        this.#take(fd);
      }
    });
  }

  /** Idempotent. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#cancel?.();
    this.#owner.epoll.remove(this.#fd);
    // Includes connections that were not accepted, and the data in them.
    this.#owner.discard([this.#fd]);
  }

  #watch(): void {
    this.#owner.guard(() => {
      const error = this.#owner.epoll.add(this.#fd, EPOLL.in, this);
      if (error < 0) throw new SyscallError('epoll_ctl', -error);
    });
  }

  #pause(): void {
    this.#owner.epoll.remove(this.#fd);
    this.#cancel = this.#clock.after(PAUSE_MS, () => this.#watch());
  }
}
