/** Ended sandboxes: the newest of this process from memory, all others from their rows (I/O). */

import type { SandboxInfo } from '../contract/control.ts';
import { translateStoreErrors } from '../contract/errors.ts';
import type { SandboxRow } from '../store/sandbox-table.ts';
import { endedSandboxInfo } from './sandbox-info.ts';
import type { SandboxRows } from './sandbox-rows.ts';

/** Maximum in memory, and in a list. */
export const ENDED_MAX = 256;

export class EndedSandboxes {
  readonly #own = new Map<string, SandboxInfo>();
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

  /** @param lives whether this process has the sandbox, which has then not ended, whatever its row says */
  async all(lives: (id: string) => boolean): Promise<readonly SandboxInfo[]> {
    const rows = await translateStoreErrors(this.#rows.allEnded());
    const others = rows.filter(({ id }) => !this.#own.has(id) && !lives(id)).map((row) => this.info(row));
    return [...this.#own.values(), ...others];
  }

  /** @param row of an ended sandbox */
  info(row: SandboxRow): SandboxInfo {
    return endedSandboxInfo(row, this.#rows.parse(row), this.#accelerator);
  }
}
