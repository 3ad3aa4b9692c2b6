/**
 * Tokens that each tenant has used today (UTC). They are in a file of the home, so that a restart of the daemon gives no
 * tenant its quota anew.
 *
 *     add ─► memory ─► HOME/tokens.json, at most once a second, and at the end
 */
import { join } from 'node:path';
import { z } from 'zod';
import type { Clock } from '../base/clock.ts';
import type { Log } from '../base/log.ts';
import { TENANT_NAME } from './limits.ts';
import { SavedFile } from './saved-file.ts';

export const DAY_MS = 24 * 3600 * 1000;

const file = z.object({
  /** Days since 1970. */
  day: z.number(),
  tokens: z.record(z.string().regex(TENANT_NAME), z.number().nonnegative()),
});

export class DailyTokens implements AsyncDisposable {
  readonly #clock: Clock;
  #file: SavedFile | null = null;
  #day: number;
  readonly #counts = new Map<string, number>();

  private constructor(clock: Clock) {
    this.#clock = clock;
    this.#day = this.#dayNow();
  }

  /** For tests, and where nothing is to be kept. */
  static inMemory(clock: Clock): DailyTokens {
    return new DailyTokens(clock);
  }

  /** A file that can't be read counts as none, and the log says so. */
  static async open(parts: {
    readonly homeDir: string;
    readonly clock: Clock;
    readonly log: Log;
  }): Promise<DailyTokens> {
    const { homeDir, clock, log } = parts;
    const made = new DailyTokens(clock);
    const saved = new SavedFile({
      path: join(homeDir, 'tokens.json'),
      clock,
      log,
      what: 'the count of today’s tokens',
      text: () => made.#text(),
    });
    const kept = await saved.read((text) => file.parse(JSON.parse(text)));
    if (kept?.day === made.#day) {
      for (const [tenant, count] of Object.entries(kept.tokens)) made.#counts.set(tenant, count);
    }
    made.#file = saved;
    return made;
  }

  of(tenant: string): number {
    this.#beginDay();
    return this.#counts.get(tenant) ?? 0;
  }

  add(tenant: string, count: number): void {
    this.#counts.set(tenant, this.of(tenant) + count);
    this.#file?.changed();
  }

  /** Writes what is not written yet. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file?.[Symbol.asyncDispose]();
  }

  #text(): string {
    this.#beginDay();
    const tokens = Object.fromEntries(this.#counts);
    return `${JSON.stringify({ day: this.#day, tokens })}\n`;
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
