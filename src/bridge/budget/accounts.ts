/**
 * What sandboxes have used of their budgets (B10). A request reserves the most that it can use before it is sent, and
 * settles what it has used afterwards, so requests at once never exceed a budget together. Each step is synchronous: pure
 * but for the clock.
 *
 *     reserve ──► reserved ──► settle: used, the rest is free again
 *                         └──► release: nothing was sent
 */
import { assert } from '../../base/assert.ts';
import type { Clock } from '../../base/clock.ts';
import {
  type BudgetKind,
  type BudgetUse,
  HOST_ACCOUNT,
  BUDGET_KINDS as KINDS,
  type ModelBudget,
} from '../../base/model-limits.ts';
import { TokenBucket } from '../../base/token-bucket.ts';
import { affordableOutput, costOf, FREE, type Price } from './price.ts';

export interface BudgetShare {
  readonly account: string;
  /** Of an account that is not known yet. */
  readonly limits: ModelBudget;
}

export interface Wanted {
  /** Estimated tokens of the prompt. */
  readonly inputTokens: number;
  /** The most tokens of the answer. */
  readonly outputTokens: number;
  /** The dearest of the routes that it may take. */
  readonly price?: Price;
}

/** What a request has used. */
export type RequestUse = Omit<Record<BudgetKind, number>, 'requests'>;

export type Reserved =
  | { readonly kind: 'reserved'; readonly reservation: Reservation }
  /** Later: requests in flight hold what is left, or the rate is used up. */
  | {
      readonly kind: 'later';
      readonly inMs: number | null;
      readonly by: BudgetKind | 'rate';
      readonly account: string;
    }
  /** `inMs`: until the next window; null: there is none. */
  | {
      readonly kind: 'spent';
      readonly by: BudgetKind;
      readonly inMs: number | null;
      readonly account: string;
    };

export interface Reservation {
  /** At most what was wanted, and at least 1 if that was. */
  readonly outputTokens: number;
  /** Some limit holds for the length of the answer. */
  readonly limitsOutput: boolean;
  /** The request has used this. Idempotent, as `release`. */
  settle(used: RequestUse): void;
  /** The request was not sent. */
  release(): void;
}

interface Account {
  readonly name: string;
  limits: ModelBudget;
  used: Record<BudgetKind, number>;
  reserved: Record<BudgetKind, number>;
  window: number;
  readonly rate: TokenBucket;
}

/** Accounts of which nothing is in flight are forgotten beyond this, those first that were not used for longest. */
const ACCOUNTS_MAX = 10_000;
/** Held of what has no limit, which a guest may name as large as it likes: sums stay exact. */
const UNLIMITED_HELD_MAX = 1e9;
/** Charged to the rate before an answer is there. */
const EXPECTED_OUTPUT_TOKENS = 256;

const none = (): Record<BudgetKind, number> => ({
  inputTokens: 0,
  outputTokens: 0,
  requests: 0,
  costNanoDollars: 0,
});

/** The counts are an upstream's, so their sum may have no exact number. */
const sum = (a: number, b: number): number => Math.min(a + b, Number.MAX_SAFE_INTEGER);

export class BudgetAccounts {
  readonly #clock: Clock;
  readonly #accounts = new Map<string, Account>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Null: nothing is known of it. */
  useOf(account: string): BudgetUse | null {
    const known = this.#accounts.get(account);
    return known === undefined ? null : { ...known.used, window: known.window };
  }

  /** Changes the limits of a known account. What was used of them stays used, also if windows have another length. */
  setLimits(account: string, limits: ModelBudget): void {
    const known = this.#accounts.get(account);
    if (known === undefined) return;
    this.#roll(known);
    if (known.limits.windowMs !== limits.windowMs) known.window = this.#windowOf(limits);
    known.limits = limits;
  }

  /** Reads what was kept on disk: an account never has used less than that. */
  restore(share: BudgetShare, { window, ...used }: BudgetUse): void {
    const known = this.#open(share);
    if (window < known.window) return;
    const isNewer = window > known.window;
    known.window = window;
    for (const kind of KINDS) {
      known.used[kind] = isNewer ? used[kind] : Math.max(known.used[kind], used[kind]);
    }
  }

  /** Reserves in all shares, or in none. */
  reserve(shares: readonly BudgetShare[], wanted: Wanted): Reserved {
    const nowMs = this.#clock.now();
    const opened = shares.map((share) => this.#current(share));
    const { inputTokens, price = FREE } = wanted;
    let { outputTokens } = wanted;
    // An answer is cut to what is left, a prompt can't be.
    const shortest = Math.min(1, outputTokens);
    const least = {
      inputTokens,
      outputTokens: shortest,
      requests: 1,
      costNanoDollars: costOf(price, { promptTokens: inputTokens, completionTokens: shortest }),
    };
    for (const account of opened) {
      const { limits, name } = account;
      for (const by of KINDS) {
        const limit = limits[by];
        if (limit === undefined || least[by] === 0) continue;
        const left = limit - account.used[by];
        if (left < least[by]) {
          return { kind: 'spent', by, inMs: this.#untilNextMs(limits), account: name };
        }
        const free = left - account.reserved[by];
        if (free < least[by]) return { kind: 'later', by, inMs: null, account: name };
        if (by === 'outputTokens') outputTokens = Math.min(outputTokens, free);
        if (by === 'costNanoDollars') {
          outputTokens = Math.min(
            outputTokens,
            affordableOutput(price, inputTokens, free) ?? outputTokens,
          );
        }
      }
    }
    for (const account of opened) {
      if (!account.rate.tryOpen(nowMs)) {
        const { name } = account;
        return { kind: 'later', by: 'rate', inMs: account.rate.waitMs(nowMs), account: name };
      }
    }
    const costNanoDollars = costOf(price, {
      promptTokens: inputTokens,
      completionTokens: outputTokens,
    });
    const most = { inputTokens, outputTokens, requests: 1, costNanoDollars };
    const rated = inputTokens + Math.min(outputTokens, EXPECTED_OUTPUT_TOKENS);
    const holders = opened.map((account) => {
      const held = none();
      for (const kind of KINDS) {
        held[kind] =
          account.limits[kind] === undefined
            ? Math.min(most[kind], UNLIMITED_HELD_MAX)
            : most[kind];
        account.reserved[kind] += held[kind];
      }
      account.rate.spend(rated);
      return { account, held };
    });
    let isOver = false;
    const end = (used: Record<BudgetKind, number>): void => {
      if (isOver) return;
      isOver = true;
      for (const { account, held } of holders) {
        this.#roll(account);
        for (const kind of KINDS) {
          account.reserved[kind] -= held[kind];
          assert(account.reserved[kind] >= 0, 'more was settled than reserved');
          account.used[kind] = sum(account.used[kind], used[kind]);
        }
        account.rate.spend(used.inputTokens + used.outputTokens - rated);
      }
    };
    const reservation: Reservation = {
      outputTokens,
      limitsOutput: opened.some(
        ({ limits }) =>
          limits.outputTokens !== undefined ||
          (limits.costNanoDollars !== undefined && price.output > 0),
      ),
      settle: (used) => end({ ...used, requests: 1 }),
      release: () => end(none()),
    };
    return { kind: 'reserved', reservation };
  }

  #current(share: BudgetShare): Account {
    const account = this.#open(share);
    this.#roll(account);
    const { tokensPerMinute } = account.limits;
    const rate =
      tokensPerMinute === undefined
        ? undefined
        : { size: tokensPerMinute, refillPerSecond: tokensPerMinute / 60 };
    account.rate.setLimit(rate, this.#clock.now());
    return account;
  }

  /** A clock that is set back begins no window anew. */
  #roll(account: Account): void {
    const window = this.#windowOf(account.limits);
    if (window <= account.window) return;
    account.window = window;
    account.used = none();
  }

  #windowOf({ windowMs }: ModelBudget): number {
    return windowMs === undefined ? 0 : Math.floor(this.#clock.wall() / windowMs);
  }

  #untilNextMs({ windowMs }: ModelBudget): number | null {
    return windowMs === undefined ? null : windowMs - (this.#clock.wall() % windowMs);
  }

  #open({ account: name, limits }: BudgetShare): Account {
    const known = this.#accounts.get(name);
    // The order of the map is that of the last uses.
    this.#accounts.delete(name);
    const account = known ?? {
      name,
      limits,
      used: none(),
      reserved: none(),
      window: 0,
      rate: new TokenBucket(undefined, this.#clock.now()),
    };
    this.#accounts.set(name, account);
    if (this.#accounts.size > ACCOUNTS_MAX) this.#forget();
    return account;
  }

  #forget(): void {
    for (const [name, { reserved }] of this.#accounts) {
      if (reserved.requests > 0 || name === HOST_ACCOUNT) continue;
      this.#accounts.delete(name);
      return;
    }
  }
}
