/** Reserves budgets for requests, and lets them wait for what others may release (io: timers only). */
import type { Clock } from '../../../base/clock.ts';
import { accepted, type Checked, type Refusal } from '../../../base/http/refusal.ts';
import {
  type BudgetKind,
  type BudgetUse,
  HOST_ACCOUNT,
  isTenantAccount,
  type ModelBudget,
} from '../../../base/request/model-limits.ts';
import { dollarsText } from '../../../base/text/dollars.ts';
import { BudgetAccounts, type BudgetShare, type Reservation, type Reserved, type Wanted } from './accounts.ts';

/** How long a request waits for requests in flight or for its rate, before it gets 429. */
const WAIT_MS_MAX = 60_000;
/**
 * How often waiting requests check the limits again: those of shared accounts are files, whose changes are not
 * signaled.
 */
const LIMITS_CHECKED_MS = 1000;

export class Budgets {
  readonly #clock: Clock;
  readonly #accounts: BudgetAccounts;
  readonly #waiting = new Set<() => void>();
  #stopCheck: (() => void) | null = null;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#accounts = new BudgetAccounts(clock);
  }

  useOf(account: string): BudgetUse | null {
    return this.#accounts.useOf(account);
  }

  forget(account: string): void {
    this.#accounts.forget(account);
    this.#wake();
  }

  restore(share: BudgetShare, use: BudgetUse): void {
    this.#accounts.restore(share, use);
  }

  /** Sets the limits for all users of the account, including requests that wait. The account may be unknown. */
  setLimits(account: string, limits: ModelBudget): void {
    this.#accounts.setLimits(account, limits);
    this.#wake();
  }

  /**
   * Resolves with a reservation, which the caller must settle or release, or with a refusal.
   * @param shares called again while the request waits
   * @throws the signal's reason
   */
  async reserve(
    shares: () => readonly BudgetShare[],
    wanted: Wanted,
    signal: AbortSignal,
  ): Promise<Checked<Reservation>> {
    const untilMs = this.#clock.now() + WAIT_MS_MAX;
    for (;;) {
      signal.throwIfAborted();
      const result = this.#accounts.reserve(shares(), wanted);
      if (result.kind === 'reserved') return accepted(this.#waking(result.reservation));
      if (result.kind === 'spent') return { ok: false, refusal: spent(result) };
      const leftMs = untilMs - this.#clock.now();
      const inMs = result.inMs ?? 0;
      if (inMs >= leftMs || leftMs <= 0) return { ok: false, refusal: busy(result, inMs) };
      await this.#wait(result.inMs ?? leftMs, signal);
    }
  }

  #waking(made: Reservation): Reservation {
    return {
      ...made,
      settle: (used) => {
        made.settle(used);
        this.#wake();
      },
      release: () => {
        made.release();
        this.#wake();
      },
    };
  }

  /** Wakes waiting requests in the order in which they began to wait. */
  #wake(): void {
    for (const each of [...this.#waiting]) each();
  }

  #check(): void {
    this.#stopCheck ??= this.#clock.after(LIMITS_CHECKED_MS, () => {
      this.#stopCheck = null;
      this.#wake();
    });
  }

  /** Resolves when the time is over, a reservation ends, or limits may have changed. */
  #wait(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const end = (): void => {
        this.#waiting.delete(end);
        if (this.#waiting.size === 0) {
          this.#stopCheck?.();
          this.#stopCheck = null;
        }
        stop();
        signal.removeEventListener('abort', end);
        resolve();
      };
      const stop = this.#clock.after(Math.max(1, Math.ceil(ms)), end);
      signal.addEventListener('abort', end, { once: true });
      this.#waiting.add(end);
      this.#check();
    });
  }
}

const NAMES: Readonly<Record<BudgetKind, string>> = {
  inputTokens: 'tokens of prompts',
  outputTokens: 'tokens of answers',
  requests: 'requests',
  costNanoDollars: 'cost',
};

type Of<Kind> = Extract<Reserved, { readonly kind: Kind }>;

/** A sandbox learns nothing about others but that a limit applies to all of them. */
function ownerOf(account: string): string {
  if (account === HOST_ACCOUNT) return 'all sandboxes of this host';
  return isTenantAccount(account) ? "all sandboxes of this sandbox's owner" : 'this sandbox';
}

function spent({ by, limit, used, inMs, account }: Of<'spent'>): Refusal {
  const isOwn = account !== HOST_ACCOUNT && !isTenantAccount(account);
  const amount = (count: number): string => (by === 'costNanoDollars' ? `$${dollarsText(count)}` : `${count}`);
  const use = isOwn ? ` (${amount(used)} of ${amount(limit)} used)` : '';
  const fault = `The budget of ${ownerOf(account)} for ${NAMES[by]} is spent, or too small for this request${use}.`;
  const code = 'budget_spent';
  if (inMs === null) {
    const remedy = 'Ask the owner of the sandbox for a larger one.';
    return { status: 429, code, message: `${fault} ${remedy}`, isFinal: true };
  }
  const retryAfterSeconds = Math.ceil(inMs / 1000);
  const message = `${fault} It begins anew in ${retryAfterSeconds} s.`;
  return { status: 429, code, message, retryAfterSeconds, isFinal: true };
}

function busy({ by, account }: Of<'later'>, inMs: number): Refusal {
  const retryAfterSeconds = Math.max(1, Math.ceil(inMs / 1000));
  const isFinal = inMs > WAIT_MS_MAX;
  if (by === 'rate') {
    const message = `The tokens per minute of ${ownerOf(account)} are used. Retry later.`;
    return { status: 429, code: 'rate_limited', message, retryAfterSeconds, isFinal };
  }
  const message = `Requests in flight hold the rest of the budget of ${ownerOf(account)} for ${NAMES[by]}. Retry later.`;
  return { status: 429, code: 'budget_reserved', message, retryAfterSeconds };
}
