/**
 * A virtqueue with its two eventfds: `kick` from the guest, `call` to it. The VMM holds both too and may clear
 * O_NONBLOCK at any time, so neither is ever read or written here.
 */
import { ignore } from '../../base/ignore.ts';
import { EPOLL, type Epoll, type EpollHandler } from '../../sys/epoll.ts';
import type { EventSignaler } from '../../sys/event-signal.ts';
import { closeFd } from '../../sys/fd.ts';
import { SyscallError } from '../../sys/libc.ts';
import type { Direction, RingAddresses, RingSource } from './ring-memory.ts';
import { Virtqueue } from './virtqueue.ts';

export class Ring {
  readonly queue: Virtqueue;
  isEnabled = false;
  readonly #epoll: Epoll;
  readonly #signaler: EventSignaler;
  readonly #onKick: EpollHandler;
  #addresses: RingAddresses | undefined;
  #kickFd = -1;
  #callFd = -1;

  constructor(direction: Direction, epoll: Epoll, signaler: EventSignaler, onKick: () => void) {
    this.queue = new Virtqueue(direction);
    this.#epoll = epoll;
    this.#signaler = signaler;
    this.#onKick = { onEvents: onKick };
  }

  /** Chains may be taken from it. */
  get isLive(): boolean {
    return this.isEnabled && this.queue.isRunning;
  }

  /** Takes ownership of `kickFd`, an eventfd. @returns a problem, or undefined */
  start(
    memory: RingSource,
    addresses: RingAddresses,
    base: number,
    usesEventIndex: boolean,
    kickFd: number,
  ): string | undefined {
    const problem = this.queue.start(memory, addresses, base, usesEventIndex) ?? this.#watch(kickFd);
    if (problem !== undefined) {
      this.queue.stop();
      closeFd(kickFd);
      return problem;
    }
    this.#addresses = addresses;
    this.#kickFd = kickFd;
    return undefined;
  }

  relocate(memory: RingSource): string | undefined {
    if (this.#addresses === undefined || !this.queue.isRunning) return undefined;
    return this.queue.relocate(memory, this.#addresses);
  }

  /** Shows completions to the guest and interrupts it if it wants that. */
  publish(): void {
    while (this.queue.isRunning && this.queue.staged > 0)
      if (this.queue.publishSome() && this.#callFd >= 0) this.#interrupt();
  }

  /** @returns the next chain to process */
  stop(): number {
    const base = this.queue.availableIndex;
    if (this.queue.isRunning) this.publish();
    this.queue.stop();
    if (this.#kickFd >= 0) {
      this.#epoll.remove(this.#kickFd);
      closeFd(this.#kickFd);
      this.#kickFd = -1;
    }
    return base;
  }

  /** Takes ownership of `fd`, an eventfd; −1 if the guest wants no interrupts. */
  setCall(fd: number): void {
    this.#closeCall();
    this.#callFd = fd;
    // The guest may have missed completions that were published before it had an interrupt.
    if (fd >= 0) this.#interrupt();
  }

  close(): void {
    this.stop();
    this.#closeCall();
  }

  #watch(kickFd: number): string | undefined {
    // Edge-triggered, so the counter need never be read: each write of it is an event.
    const added = this.#epoll.add(kickFd, (EPOLL.in | EPOLL.edge) >>> 0, this.#onKick);
    return added < 0 ? 'a kick descriptor that can not be watched' : undefined;
  }

  #interrupt(): void {
    const result = this.#signaler.signal(this.#callFd);
    if (result < 0) ignore(new SyscallError('io_submit', -result), 'the next interrupt repeats it');
  }

  #closeCall(): void {
    if (this.#callFd >= 0) closeFd(this.#callFd);
    this.#callFd = -1;
  }
}
