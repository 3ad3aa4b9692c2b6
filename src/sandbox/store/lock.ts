/**
 * The store's lock, held while files move in or out of `files/`, so that no row is ever without its file. It
 * is flock(2), which the kernel releases when its owner dies. It is not the database's write lock, because it
 * is held while a directory is synced to disk: neither other rows nor the event loop wait for that.
 */
import { closeSync, openSync } from 'node:fs';
import type { Clock } from '../../base/clock.ts';
import { sleep } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';
import { tryLockExclusive, unlock } from '../../sys/file.ts';
import { StoreError } from './errors.ts';
import { POLL_MS, WAIT_MS_MAX } from './limits.ts';

export class FileLock {
  readonly #clock: Clock;
  readonly #path: string;
  /** Undefined once closed. */
  #fd: number | undefined;
  /** End of this process's queue. */
  #tail: Promise<void> = Promise.resolve();

  /** @param path is created, and stays: removing it could leave two processes with locks on different files */
  constructor(path: string, clock: Clock) {
    this.#path = path;
    this.#clock = clock;
    this.#fd = openSync(path, 'a', 0o600);
  }

  /**
   * Runs `work` under the lock; calls of this process run in order. Not reentrant.
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
      (error: unknown) => ignore(error, 'reported to its caller'),
    );
    return turn;
  }

  /** Closes after the waiting calls; later calls fail with `store_closed`. */
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
          remedy: 'End the NeuroVisor process that hangs, then retry.',
        });
      }
      await sleep(POLL_MS);
    }
    return fd;
  }
}
