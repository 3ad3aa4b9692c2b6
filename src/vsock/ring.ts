/** A virtqueue with its two eventfds: `kick` from the guest, `call` to it. */
import { EPOLL, type Epoll, type EpollHandler } from '../sys/epoll.ts';
import { closeFd, setNonBlocking, signalEventFd } from '../sys/fd.ts';
import { SyscallError } from '../sys/libc.ts';
import type { GuestMemory } from './guest-memory.ts';
import { type RingAddresses, Virtqueue } from './virtqueue.ts';

export class Ring {
  readonly queue: Virtqueue;
  isEnabled = false;
  readonly #epoll: Epoll;
  readonly #onKick: EpollHandler;
  #addresses: RingAddresses | undefined;
  #kickFd = -1;
  #callFd = -1;

  constructor(direction: 'device-writes' | 'device-reads', epoll: Epoll, onKick: () => void) {
    this.queue = new Virtqueue(direction);
    this.#epoll = epoll;
    this.#onKick = { onEvents: onKick };
  }

  /** Chains may be taken from it. */
  get isLive(): boolean {
    return this.isEnabled && this.queue.isRunning;
  }

  /** Owns `kickFd` from now on. @returns what is wrong, or undefined. */
  start(
    memory: GuestMemory,
    addresses: RingAddresses,
    base: number,
    usesEventIndex: boolean,
    kickFd: number,
  ): string | undefined {
    const problem = this.queue.start(memory, addresses, base, usesEventIndex);
    // Edge-triggered, so the counter need never be read: each write of it is an event.
    if (
      problem !== undefined ||
      this.#epoll.add(kickFd, (EPOLL.in | EPOLL.edge) >>> 0, this.#onKick) < 0
    ) {
      this.queue.stop();
      closeFd(kickFd);
      return problem ?? 'a kick descriptor that can not be polled';
    }
    this.#addresses = addresses;
    this.#kickFd = kickFd;
    return undefined;
  }

  relocate(memory: GuestMemory): string | undefined {
    if (this.#addresses === undefined || !this.queue.isRunning) return undefined;
    return this.queue.relocate(memory, this.#addresses);
  }

  /** Shows completions to the guest and interrupts it if it wants that. */
  publish(): void {
    if (this.queue.publish() && this.#callFd >= 0) signalEventFd(this.#callFd);
  }

  /** @returns the chain to go on from. */
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

  /**
   * Owns `fd` from now on; −1: the guest wants no interrupts. A front end that clears O_NONBLOCK again
   * and fills the counter could still stop the worker: VMMs are jailed, not trusted, but not fought here.
   */
  setCall(fd: number): string | undefined {
    this.#closeCall();
    if (fd < 0) return undefined;
    try {
      setNonBlocking(fd);
    } catch (error) {
      closeFd(fd);
      if (error instanceof SyscallError) return error.message;
      throw error;
    }
    this.#callFd = fd;
    // The guest may have missed what was published without an interrupt to raise.
    signalEventFd(fd);
    return undefined;
  }

  close(): void {
    this.stop();
    this.#closeCall();
  }

  #closeCall(): void {
    if (this.#callFd >= 0) closeFd(this.#callFd);
    this.#callFd = -1;
  }
}
