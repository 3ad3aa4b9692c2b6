/**
 * Signals event counters (eventfd(2)) that another process holds too. write(2) blocks on a full counter unless its open
 * file has O_NONBLOCK, and each holder may clear that flag at any time. The kernel itself never waits for room: it
 * reports the completion of an asynchronous read (io_submit(2), IOCB_FLAG_RESFD) by `eventfd_signal`, which leaves a
 * full counter full, whatever the flags are. So a signal here is an empty read of /dev/null. The kernel refuses a
 * descriptor that is no event counter.
 */
import { closeSync, openSync } from 'node:fs';
import { check, lastErrno, libc } from './libc.ts';
import { allocateNative } from './memory.ts';

const cSetup = libc.func('long syscall(long number, unsigned int requests, uintptr_t context)');
const cDestroy = libc.func('long syscall(long number, uintptr_t context)');
const cSubmit = libc.func('long syscall(long number, uintptr_t context, long count, uintptr_t blocks)');
const cGetEvents = libc.func(
  'long syscall(long number, uintptr_t context, long min, long max, uintptr_t events, uintptr_t timeout)',
);

/** x86-64 (asm/unistd_64.h). */
const IO_SETUP = 206;
const IO_DESTROY = 207;
const IO_GETEVENTS = 208;
const IO_SUBMIT = 209;

/** struct iocb (linux/aio_abi.h); all other fields are zero. */
const BLOCK_BYTES = 64;
const BLOCK_OPERATION_AT = 16;
const BLOCK_FD_AT = 20;
const BLOCK_FLAGS_AT = 56;
const BLOCK_EVENT_FD_AT = 60;
const OPERATION_READ = 0;
const FLAG_EVENT_FD = 1;
/** struct io_event */
const EVENT_BYTES = 32;
/** Completions that the kernel keeps for us; they are removed when half of that is reached. */
const REQUESTS = 64;

/** Used by one thread only. */
export class EventSignaler {
  readonly #context: number;
  readonly #sourceFd: number;
  readonly #block = allocateNative(BLOCK_BYTES);
  readonly #view = new DataView(this.#block.buffer);
  readonly #blocks = allocateNative(8);
  readonly #events = allocateNative(REQUESTS * EVENT_BYTES);
  /** A zero struct timespec: never wait. */
  readonly #noWait = allocateNative(16);
  #completions = 0;

  /** @throws SyscallError; EAGAIN: other programs use all of fs.aio-max-nr; ENOSYS: a kernel without AIO */
  constructor() {
    const context = allocateNative(8);
    check(cSetup(IO_SETUP, REQUESTS, context.address), 'io_setup, limited by the sysctl fs.aio-max-nr');
    this.#context = Number(new BigUint64Array(context.buffer)[0]);
    this.#sourceFd = openSync('/dev/null', 'r');
    this.#view.setUint16(BLOCK_OPERATION_AT, OPERATION_READ, true);
    this.#view.setUint32(BLOCK_FD_AT, this.#sourceFd, true);
    this.#view.setUint32(BLOCK_FLAGS_AT, FLAG_EVENT_FD, true);
    new BigUint64Array(this.#blocks.buffer)[0] = BigInt(this.#block.address);
  }

  /**
   * Adds one to an event counter. A full counter is signaled already, so nothing is lost.
   * @returns 0, or −errno: `fd` is no event counter (EINVAL)
   */
  signal(fd: number): number {
    if (this.#completions >= REQUESTS / 2) this.#reap();
    this.#view.setUint32(BLOCK_EVENT_FD_AT, fd, true);
    if (cSubmit(IO_SUBMIT, this.#context, 1, this.#blocks.address) < 0) return -lastErrno();
    this.#completions += 1;
    return 0;
  }

  close(): void {
    cDestroy(IO_DESTROY, this.#context);
    closeSync(this.#sourceFd);
  }

  #reap(): void {
    const { address } = this.#events;
    cGetEvents(IO_GETEVENTS, this.#context, 0, REQUESTS, address, this.#noWait.address);
    this.#completions = 0;
  }
}
