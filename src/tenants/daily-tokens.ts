/**
 * Tokens that each tenant has used today (UTC). They are in a file of the home, so that a restart of the daemon gives no
 * tenant its quota anew.
 *
 *     add ─► memory ─► HOME/tokens.json, at most once a second, and at the end
 */
import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { Clock } from '../base/clock.ts';
import { describeError, errorCode } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { TENANT_LIMITS, TENANT_NAME } from './limits.ts';

export const DAY_MS = 24 * 3600 * 1000;

const file = z.object({
  /** Days since 1970. */
  day: z.number(),
  tokens: z.record(z.string().regex(TENANT_NAME), z.number().nonnegative()),
});

type Save = (text: string) => Promise<void>;

export class DailyTokens implements AsyncDisposable {
  readonly #clock: Clock;
  readonly #save: Save | null;
  readonly #log: Log | null;
  #day: number;
  readonly #counts = new Map<string, number>();
  #isChanged = false;
  #hasFailed = false;
  #isClosed = false;
  #saving: Promise<void> = Promise.resolve();
  #stopTimer: (() => void) | null = null;

  private constructor(clock: Clock, save: Save | null, log: Log | null) {
    this.#clock = clock;
    this.#save = save;
    this.#log = log;
    this.#day = this.#dayNow();
  }

  /** For tests, and where nothing is to be kept. */
  static inMemory(clock: Clock): DailyTokens {
    return new DailyTokens(clock, null, null);
  }

  /** A file that can't be read counts as none, and the log says so. */
  static async open(parts: {
    readonly homeDir: string;
    readonly clock: Clock;
    readonly log: Log;
  }): Promise<DailyTokens> {
    const { homeDir, clock, log } = parts;
    const path = join(homeDir, 'tokens.json');
    const made = new DailyTokens(clock, (text) => replace(path, text), log);
    try {
      const { day, tokens } = file.parse(JSON.parse(await readFile(path, 'utf8')));
      if (day === made.#day) {
        for (const [tenant, count] of Object.entries(tokens)) made.#counts.set(tenant, count);
      }
    } catch (error) {
      if (errorCode(error) !== 'ENOENT') {
        const reason = describeError(error).slice(0, 500);
        log.error('the count of today’s tokens can’t be read; it begins anew', { path, reason });
      }
    }
    return made;
  }

  of(tenant: string): number {
    this.#beginDay();
    return this.#counts.get(tenant) ?? 0;
  }

  add(tenant: string, count: number): void {
    this.#counts.set(tenant, this.of(tenant) + count);
    this.#isChanged = true;
    this.#writeSoon();
  }

  #writeSoon(): void {
    if (this.#save === null || this.#isClosed) return;
    this.#stopTimer ??= this.#clock.after(TENANT_LIMITS.tokensSavedMs, () => {
      this.#stopTimer = null;
      this.#saving = this.#saving.then(() => this.#write());
    });
  }

  /** Writes what is not written yet. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
    this.#stopTimer?.();
    this.#stopTimer = null;
    await this.#saving;
    await this.#write();
  }

  /** Never rejects: what was not written is written with the next change, or soon. */
  async #write(): Promise<void> {
    if (this.#save === null || !this.#isChanged) return;
    this.#beginDay();
    this.#isChanged = false;
    try {
      const tokens = Object.fromEntries(this.#counts);
      await this.#save(`${JSON.stringify({ day: this.#day, tokens })}\n`);
      this.#hasFailed = false;
    } catch (error) {
      this.#isChanged = true;
      if (!this.#hasFailed) {
        const reason = describeError(error);
        this.#log?.error('the count of today’s tokens can’t be written', { reason });
      }
      this.#hasFailed = true;
      this.#writeSoon();
    }
  }

  #beginDay(): void {
    const day = this.#dayNow();
    // A clock that is set back over midnight gives no quota anew.
    if (day === this.#day || day === this.#day - 1) return;
    this.#day = day;
    this.#counts.clear();
  }

  #dayNow(): number {
    return Math.floor(this.#clock.wall() / DAY_MS);
  }
}

/** The daemon alone writes it, one time after the other, so a draft of a killed one is overwritten. */
async function replace(path: string, text: string): Promise<void> {
  const draft = `${path}.new`;
  await writeFile(draft, text, { mode: 0o600, flush: true });
  await rename(draft, path);
}
