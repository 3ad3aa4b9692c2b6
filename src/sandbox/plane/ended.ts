/** Ended sandboxes: the newest of this process from memory, all others from their rows (I/O). */
import { setImmediate } from 'node:timers/promises';
import type { SandboxInfo } from '../contract/control.ts';
import { translateStoreErrors } from '../contract/errors.ts';
import type { SandboxRow } from '../store/sandbox-table.ts';
import { endedSandboxInfo } from './sandbox-info.ts';
import type { SandboxRows } from './sandbox-rows.ts';

/** Maximum in memory, and in a list. */
export const ENDED_MAX = 256;

export class EndedSandboxes {
  readonly #own = new Map<string, SandboxInfo>();
  /** Of the last list: an ended sandbox never changes, and reading all their rows takes the event loop. */
  #read: ReadonlyMap<string, SandboxInfo> = new Map();
  readonly #rows: SandboxRows;
  readonly #accelerator: string;

  constructor(rows: SandboxRows, accelerator: string) {
    this.#rows = rows;
    this.#accelerator = accelerator;
  }

  /** Whether the sandbox ended in this process. */
  has(id: string): boolean {
    return this.#own.has(id);
  }

  add(info: SandboxInfo): void {
    this.#own.set(info.id, info);
    const [oldest] = this.#own.keys();
    if (this.#own.size > ENDED_MAX && oldest !== undefined) this.#own.delete(oldest);
  }

  own(id: string): SandboxInfo | undefined {
    return this.#own.get(id);
  }

  /** The newest. @param lives whether this process has the sandbox, which has then not ended, whatever its row says */
  async all(lives: (id: string) => boolean): Promise<readonly SandboxInfo[]> {
    const others = new Map<string, SandboxInfo>();
    for (const id of await translateStoreErrors(this.#rows.ended(ENDED_MAX))) {
      if (this.#own.has(id) || lives(id)) continue;
      const info = this.#read.get(id) ?? (await this.#find(id));
      if (info !== undefined) others.set(id, info);
    }
    this.#read = others;
    return [...this.#own.values(), ...others.values()];
  }

  async #find(id: string): Promise<SandboxInfo | undefined> {
    // Other work has its turn between two rows.
    await setImmediate();
    const row = await translateStoreErrors(this.#rows.find(id));
    return row?.end == null ? undefined : this.info(row);
  }

  /** @param row of an ended sandbox */
  info(row: SandboxRow): SandboxInfo {
    return endedSandboxInfo(row, this.#rows.parse(row), this.#accelerator);
  }
}
