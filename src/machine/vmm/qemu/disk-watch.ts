/**
 * Disk errors that QEMU reports (QMP event `BLOCK_IO_ERROR`, qapi/block-core.json).
 *
 * No space on the host: QEMU pauses the machine, keeps the request, and retries it at `cont` (its default,
 * `werror=enospc`), so the guest loses nothing. Any other error goes to the guest as EIO.
 */

import type { Clock } from '../../../base/clock.ts';
import { ignore } from '../../../base/ignore.ts';
import { Listeners } from '../../../base/listeners.ts';
import type { DiskTrouble } from '../driver.ts';
import type { QmpClient, QmpEvent } from './qmp.ts';

/** At most one event is passed on per interval, then the last of the rest: QEMU may be compromised. */
export const DISK_TROUBLE_MS = 1_000;

interface DiskWatchOptions {
  readonly qmp: Pick<QmpClient, 'onEvent'>;
  readonly clock: Clock;
  readonly path: string;
  /** Free bytes of its file system. */
  readonly freeBytes: (path: string) => Promise<number>;
}

export class DiskWatch {
  readonly #options: DiskWatchOptions;
  readonly #listeners = new Listeners<DiskTrouble>();
  /** A full disk has paused the machine. */
  #isStopped = false;
  #full: DiskTrouble | null = null;
  /** The event to pass on when the timer fires; `none`: no timer runs. */
  #next: DiskTrouble['kind'] | 'nothing' | 'none' = 'none';

  constructor(options: DiskWatchOptions) {
    this.#options = options;
    options.qmp.onEvent((event) => this.#take(event));
  }

  /** The full disk that paused the machine; known a moment after the pause. */
  get full(): DiskTrouble | null {
    return this.#full;
  }

  /** @returns a function that stops listening */
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
    // Each waiting request has its own event.
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
      ignore(error, 'the free space is unknown');
      return null;
    });
    // The machine has resumed meanwhile.
    if (kind === 'full' && !this.#isStopped) return;
    const trouble: DiskTrouble = { kind, path, freeBytes: free };
    if (kind === 'full') this.#full = trouble;
    this.#listeners.emit(trouble);
  }
}
