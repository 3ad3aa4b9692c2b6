/**
 * The store's lock: whoever moves files in or out of `files/` holds it, so that no row is ever without its
 * file. It is flock(2), which the kernel gives back when its owner dies, and not the database's own write
 * lock, since it is held while a directory is written to the disk: nobody else's rows wait for that, and
 * nor does the event loop.
 */
import { closeSync, openSync } from 'node:fs';
import type { Clock } from '../base/clock.ts';
import { sleep } from '../base/clock.ts';
import { ignore } from '../base/ignore.ts';
import { tryLockExclusive, unlock } from '../sys/file.ts';
import { StoreError } from './errors.ts';
import { POLL_MS, WAIT_MS_MAX } from './limits.ts';

export class FileLock {
  readonly #clock: Clock;
  readonly #path: string;
  /** Undefined once it is closed. */
  #fd: number | undefined;
  /** The last of this process that waits or works. */
  #tail: Promise<void> = Promise.resolve();

  /** @param path is made, and stays: removing it could split later callers over two files. */
  constructor(path: string, clock: Clock) {
    this.#path = path;
    this.#clock = clock;
    this.#fd = openSync(path, 'a', 0o600);
  }

  /**
   * Runs `work` while nobody else does, in this process in the order of the calls. Not reentrant.
   * @throws StoreError `store_busy`
   */
  run<T>(work: () => Promise<T> | T): Promise<T> {
    const turn = this.#tail.then(async () => {
      const fd = await this.#acquire();
      try {
        return await work();
      } finally {
        unlock(fd);
      }
    });
    this.#tail = turn.then(
      () => undefined,
      (error: unknown) => ignore(error, 'the caller has it'),
    );
    return turn;
  }

  /** After those that wait; who comes later gets `store_closed`. */
  close(): Promise<void> {
    this.#tail = this.#tail.then(() => {
      if (this.#fd !== undefined) closeSync(this.#fd);
      this.#fd = undefined;
    });
    return this.#tail;
  }

  async #acquire(): Promise<number> {
    const deadlineMs = this.#clock.now() + WAIT_MS_MAX;
    const fd = this.#fd;
    if (fd === undefined) throw new StoreError('store_closed', `wait for ${this.#path}`);
    while (!tryLockExclusive(fd)) {
      if (this.#clock.now() >= deadlineMs) {
        throw new StoreError('store_busy', `wait for ${this.#path}`, {
          remedy: 'End the other NeuroVisor process that stands still, then try again.',
        });
      }
      await sleep(POLL_MS);
    }
    return fd;
  }
}
