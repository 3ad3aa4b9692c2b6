/**
 * The budget for models of all sandboxes of a daemon together. What was used in the window is in a file of the home, so
 * that a restart of the daemon gives nothing anew; the bridge counts.
 *
 *     bridge ─► note ─► HOME/model-budget.json, at most once a second, and at the end
 */
import { join } from 'node:path';
import { z } from 'zod';
import type { Clock } from '../base/clock.ts';
import type { Log } from '../base/log.ts';
import { type BudgetUse, currentUse, type ModelBudget } from '../base/model-limits.ts';
import { SavedFile } from './saved-file.ts';

const count = z.int().nonnegative();
const file = z.object({
  windowMs: z.int().positive(),
  used: z.object({
    inputTokens: count,
    outputTokens: count,
    requests: count,
    costNanoDollars: count,
    window: count,
  }),
});

/** It has windows, or a restart would have to begin it anew. */
export type HostLimits = ModelBudget & { readonly windowMs: number };

export class HostBudget implements AsyncDisposable {
  readonly limits: HostLimits;
  #used: BudgetUse | null;
  #file: SavedFile | null = null;

  private constructor(limits: HostLimits, used: BudgetUse | null) {
    this.limits = limits;
    this.#used = used;
  }

  /** A file that can't be read counts as none, and the log says so. */
  static async open(parts: {
    readonly limits: HostLimits;
    readonly homeDir: string;
    readonly clock: Clock;
    readonly log: Log;
  }): Promise<HostBudget> {
    const { limits, homeDir, clock, log } = parts;
    const made = new HostBudget(limits, null);
    const saved = new SavedFile({
      path: join(homeDir, 'model-budget.json'),
      clock,
      log,
      what: 'the use of the budget for models',
      text: () => `${JSON.stringify({ windowMs: limits.windowMs, used: made.#used })}\n`,
    });
    const kept = await saved.read((text) => file.parse(JSON.parse(text)));
    if (kept !== null) {
      const { used, windowMs } = kept;
      made.#used = currentUse(limits, { ...used, windowMs }, clock.wall());
    }
    made.#file = saved;
    return made;
  }

  /** In the window of the last use; null: nothing yet. */
  get used(): BudgetUse | null {
    return this.#used;
  }

  note(used: BudgetUse | null): void {
    if (used === null) return;
    this.#used = used;
    this.#file?.changed();
  }

  /** Writes what is not written yet. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file?.[Symbol.asyncDispose]();
  }
}
