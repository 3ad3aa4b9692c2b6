/**
 * A small file that follows counts in memory: written after changes, at a limited rate, and at the end. A kill loses
 * only recent changes.
 */
import { readFile, rename, writeFile } from 'node:fs/promises';
import type { Clock } from '../../base/clock.ts';
import { describeError, errorCode } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { TENANT_LIMITS } from './limits.ts';

export interface SavedFileParts {
  readonly path: string;
  readonly clock: Clock;
  readonly log: Log;
  /** For messages, e.g. `the use of the budgets`. */
  readonly what: string;
  readonly text: () => string;
}

export class SavedFile implements AsyncDisposable {
  readonly #parts: SavedFileParts;
  #isChanged = false;
  #hasFailed = false;
  #isClosed = false;
  #saving: Promise<void> = Promise.resolve();
  #stopTimer: (() => void) | null = null;

  constructor(parts: SavedFileParts) {
    this.#parts = parts;
  }

  /** `null` if there is none, or it can't be read, which is logged. @param parse throws for a damaged file */
  async read<T>(parse: (text: string) => T): Promise<T | null> {
    const { path, log, what } = this.#parts;
    try {
      return parse(await readFile(path, 'utf8'));
    } catch (error) {
      if (errorCode(error) !== 'ENOENT') {
        const reason = describeError(error).slice(0, 500);
        log.error(`${what} can’t be read; it begins anew`, { path, reason });
      }
      return null;
    }
  }

  changed(): void {
    this.#isChanged = true;
    this.#writeSoon();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
    this.#stopTimer?.();
    this.#stopTimer = null;
    await this.#saving;
    await this.#write();
  }

  #writeSoon(): void {
    if (this.#isClosed) return;
    this.#stopTimer ??= this.#parts.clock.after(TENANT_LIMITS.savedMs, () => {
      this.#stopTimer = null;
      this.#saving = this.#saving.then(() => this.#write());
    });
  }

  /** Never rejects: a failed write is repeated with the next change, or soon. */
  async #write(): Promise<void> {
    if (!this.#isChanged) return;
    const { path, log, what, text } = this.#parts;
    this.#isChanged = false;
    try {
      await replace(path, text());
      this.#hasFailed = false;
    } catch (error) {
      this.#isChanged = true;
      const reason = describeError(error);
      if (!this.#hasFailed) log.error(`${what} can’t be written`, { reason });
      this.#hasFailed = true;
      this.#writeSoon();
    }
  }
}

/** Only the daemon writes the file, one write at a time, so it may overwrite a draft of a killed one. */
async function replace(path: string, text: string): Promise<void> {
  const draft = `${path}.new`;
  await writeFile(draft, text, { mode: 0o600, flush: true });
  await rename(draft, path);
}
