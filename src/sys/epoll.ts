/**
 * epoll(7) as a table of handlers. One thread owns an `Epoll` and calls `wait`; handlers run inside it.
 *
 * Descriptors may be removed and their numbers reused while a batch of events is being handled: each registration has
 * its own id, so that an event never reaches a later owner of the number.
 */
import { check, ERRNO, lastErrno, libc, SyscallError } from './libc.ts';
import { allocateNative } from './memory.ts';

const cCreate = libc.func('int epoll_create1(int flags)');
const cControl = libc.func('int epoll_ctl(int epoll, int operation, int fd, uintptr_t event)');
const cWait = libc.func('int epoll_wait(int epoll, uintptr_t events, int max, int timeoutMs)');
const cClose = libc.func('int close(int fd)');

/** Bits of `events` (sys/epoll.h). */
export const EPOLL = { in: 0x1, out: 0x4, error: 0x8, hangUp: 0x10, readHangUp: 0x2000, edge: 0x80000000 } as const;

const EPOLL_CLOEXEC = 0o2000000;
const CONTROL_ADD = 1;
const CONTROL_DELETE = 2;
const CONTROL_MODIFY = 3;
/** struct epoll_event is packed on x86-64: u32 events, u64 data. */
const EVENT_BYTES = 12;
const EVENTS_PER_WAIT_MAX = 128;

export interface EpollHandler {
  /** @param events bits of `EPOLL` */
  onEvents(events: number): void;
}

export class Epoll {
  readonly #fd: number;
  readonly #handlers = new Map<number, EpollHandler>();
  readonly #ids = new Map<number, number>();
  readonly #events = allocateNative(EVENT_BYTES * EVENTS_PER_WAIT_MAX);
  readonly #view = new DataView(this.#events.buffer);
  readonly #one = allocateNative(EVENT_BYTES);
  readonly #oneView = new DataView(this.#one.buffer);
  #lastId = 0;

  /** @throws SyscallError */
  constructor() {
    this.#fd = check(cCreate(EPOLL_CLOEXEC), 'epoll_create1');
  }

  /** The epoll's own descriptor. */
  get fd(): number {
    return this.#fd;
  }

  /** Number of watched descriptors. */
  get size(): number {
    return this.#ids.size;
  }

  /** @returns 0 or −errno: some kinds of descriptors (plain files) can't be watched */
  add(fd: number, events: number, handler: EpollHandler): number {
    this.#lastId = this.#lastId === 0xffffffff ? 1 : this.#lastId + 1;
    const id = this.#lastId;
    this.#write(events, id);
    if (cControl(this.#fd, CONTROL_ADD, fd, this.#one.address) < 0) return -lastErrno();
    this.#handlers.set(id, handler);
    this.#ids.set(fd, id);
    return 0;
  }

  /** @throws SyscallError for an fd that is not watched */
  modify(fd: number, events: number): void {
    this.#write(events, this.#ids.get(fd) ?? 0);
    check(cControl(this.#fd, CONTROL_MODIFY, fd, this.#one.address), `epoll_ctl fd ${fd}`);
  }

  /** Call before the fd is closed. Does nothing for an unwatched fd. */
  remove(fd: number): void {
    const id = this.#ids.get(fd);
    if (id === undefined) return;
    this.#ids.delete(fd);
    this.#handlers.delete(id);
    cControl(this.#fd, CONTROL_DELETE, fd, this.#one.address);
  }

  /**
   * Waits for events and runs their handlers.
   * @param timeoutMs 0 does not wait, −1 waits forever
   * @returns the number of handled events
   */
  wait(timeoutMs: number): number {
    const count = cWait(this.#fd, this.#events.address, EVENTS_PER_WAIT_MAX, timeoutMs);
    if (count < 0) {
      const errno = lastErrno();
      if (errno === ERRNO.EINTR) return 0;
      throw new SyscallError('epoll_wait', errno);
    }
    for (let index = 0; index < count; index += 1) {
      const events = this.#view.getUint32(index * EVENT_BYTES, true);
      const id = this.#view.getUint32(index * EVENT_BYTES + 4, true);
      this.#handlers.get(id)?.onEvents(events);
    }
    return count;
  }

  close(): void {
    this.#handlers.clear();
    this.#ids.clear();
    cClose(this.#fd);
  }

  #write(events: number, id: number): void {
    this.#oneView.setUint32(0, events, true);
    this.#oneView.setUint32(4, id, true);
    this.#oneView.setUint32(8, 0, true);
  }
}
