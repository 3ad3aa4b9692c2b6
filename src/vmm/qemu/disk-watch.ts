/**
 * What QEMU says of a disk that it could not read or write (QMP event `BLOCK_IO_ERROR`, qapi/block-core.json).
 *
 * No space on the host: QEMU stops the machine, keeps the request, and tries it again at `cont` (its default,
 * `werror=enospc`), so the guest loses nothing. Any other error goes to the guest, which sees EIO.
 */

import type { Clock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';
import { Listeners } from '../../base/listeners.ts';
import type { DiskTrouble } from '../driver.ts';
import type { QmpClient, QmpEvent } from './qmp.ts';

/** QEMU may have been taken over: of more events than one in this time the last is told, milliseconds. */
export const DISK_TROUBLE_MS = 1_000;

interface DiskWatchOptions {
  readonly qmp: Pick<QmpClient, 'onEvent'>;
  readonly clock: Clock;
  /** Of the disk that the guest writes. */
  readonly path: string;
  /** Of its file system. */
  readonly freeBytes: (path: string) => Promise<number>;
}

export class DiskWatch {
  readonly #options: DiskWatchOptions;
  readonly #listeners = new Listeners<DiskTrouble>();
  /** The machine stands still for it. */
  #isStopped = false;
  #full: DiskTrouble | null = null;
  /** To be told when it is time; there is a timer as long as this is not `none`. */
  #next: DiskTrouble['kind'] | 'nothing' | 'none' = 'none';

  constructor(options: DiskWatchOptions) {
    this.#options = options;
    options.qmp.onEvent((event) => this.#take(event));
  }

  /** Why the machine stands still now; known a moment later than that it does. */
  get full(): DiskTrouble | null {
    return this.#full;
  }

  /** @returns stops listening */
  listen(listener: (trouble: DiskTrouble) => void): () => void {
    return this.#listeners.listen(listener);
  }

  #take({ name, data }: QmpEvent): void {
    if (name === 'RESUME') {
      this.#isStopped = false;
      this.#full = null;
    }
    if (name !== 'BLOCK_IO_ERROR' || data['action'] === 'ignore') return;
    const kind = data['action'] === 'stop' ? 'full' : 'failed';
    // Each request that waits has an event of its own.
    if (this.#isStopped) return;
    this.#isStopped = kind === 'full';
    if (this.#next === 'none') void this.#tell(kind);
    else this.#next = kind;
  }

  /** Never rejects. */
  async #tell(kind: DiskTrouble['kind']): Promise<void> {
    const { clock, path, freeBytes } = this.#options;
    this.#next = 'nothing';
    clock.after(DISK_TROUBLE_MS, () => {
      const next = this.#next;
      this.#next = 'none';
      if (next === 'full' || next === 'failed') void this.#tell(next);
    });
    const free = await freeBytes(path).catch((error: unknown) => {
      ignore(error, 'the file system does not answer');
      return null;
    });
    // It goes on meanwhile.
    if (kind === 'full' && !this.#isStopped) return;
    const trouble: DiskTrouble = { kind, path, freeBytes: free };
    if (kind === 'full') this.#full = trouble;
    this.#listeners.emit(trouble);
  }
}
