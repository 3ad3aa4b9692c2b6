/**
 * Accounts of what sandboxes have used of their budgets (B10). A request reserves the most that it can use before it is
 * sent and settles its actual use afterwards, so concurrent requests never exceed a budget together. Each step is
 * synchronous. Pure but for the clock.
 *
 *     reserve ──► reserved ──► settle: used, the rest is free again
 *                         └──► release: nothing was sent
 */
import { assert } from '../../../base/assert.ts';
import type { Clock } from '../../../base/clock.ts';
import {
  type BudgetKind,
  type BudgetUse,
  currentUse,
  BUDGET_KINDS as KINDS,
  type ModelBudget,
  windowAt,
  windowFrom,
} from '../../../base/request/model-limits.ts';
import { TokenBucket } from '../../../base/token-bucket.ts';
import { DEFAULT_OUTPUT_TOKENS, EXPECTED_OUTPUT_TOKENS } from './output-limit.ts';
import { affordableOutput, costOf, FREE, type Price } from './price.ts';

export interface BudgetShare {
  readonly account: string;
  /** Initial limits of an unknown account; for a shared account, the current ones. */
  readonly limits: ModelBudget;
  /**
   * For a shared account: the sandbox's account and its groups. Each holder leaves others a part of what remains for
   * answers and cost. Absent if the account has one user.
   */
  readonly holders?: readonly string[];
}

export interface Wanted {
  readonly inputTokens: number;
  /** Upper bound of the tokens of all answers. */
  readonly outputTokens: number;
  /** Number of answers; each gets at least one token. Default 1. */
  readonly answers?: number;
  /** The dearest price of the routes that the request may take. */
  readonly price?: Price;
}

export type RequestUse = Omit<Record<BudgetKind, number>, 'requests'>;

export type Reserved =
  | { readonly kind: 'reserved'; readonly reservation: Reservation }
  /** Requests in flight hold what is left, or the rate is used up: try again later. */
  | { readonly kind: 'later'; readonly inMs: number | null; readonly by: BudgetKind | 'rate'; readonly account: string }
  | Spent;

export interface Spent {
  readonly kind: 'spent';
  readonly by: BudgetKind;
  readonly limit: number;
  readonly used: number;
  /** Time to the next window; `null` if there is none. */
  readonly inMs: number | null;
  readonly account: string;
}

export interface Reservation {
  /** At most what was wanted. At least 1 for each answer, if that many were wanted. */
  readonly outputTokens: number;
  readonly limitsCost: boolean;
  readonly limitsOutput: boolean;
  /** Replaces the reservation by the actual use. Idempotent, like `release`. */
  settle(used: RequestUse): void;
  release(): void;
}

interface Account {
  readonly name: string;
  limits: ModelBudget;
  used: Record<BudgetKind, number>;
  readonly reserved: Record<BudgetKind, number>;
  readonly holders: Map<string, Record<BudgetKind, number>>;
  window: number;
  readonly rate: TokenBucket;
  isShared: boolean;
}

/** Above this number, single-user accounts without requests in flight are forgotten, least recently used first. */
const ACCOUNTS_MAX = 10_000;
/**
 * Kinds of which one holder gets at most half of what others leave, or as much as one usual answer. Otherwise a
 * requested length that no model writes would hold everything until its answer ends.
 */
const CUT_KINDS: ReadonlySet<BudgetKind> = new Set(['outputTokens', 'costNanoDollars']);
/** Cap of the amount held where no limit applies: a guest may request any length, and sums must stay exact. */
const UNLIMITED_HELD_MAX = 1e9;

const none = (): Record<BudgetKind, number> => ({ inputTokens: 0, outputTokens: 0, requests: 0, costNanoDollars: 0 });

/** Counts come from an upstream, so a sum may exceed what a number holds exactly. */
const sum = (a: number, b: number): number => Math.min(a + b, Number.MAX_SAFE_INTEGER);

function add(to: Record<BudgetKind, number>, held: Record<BudgetKind, number>, sign: 1 | -1): void {
  for (const kind of KINDS) {
    to[kind] += sign * held[kind];
    assert(to[kind] >= 0, 'more was settled than reserved');
  }
}

function hold({ holders }: Account, name: string, held: Record<BudgetKind, number>, sign: 1 | -1): void {
  const own = holders.get(name) ?? none();
  add(own, held, sign);
  if (own.requests === 0) holders.delete(name);
  else holders.set(name, own);
}

export class BudgetAccounts {
  readonly #clock: Clock;
  readonly #accounts = new Map<string, Account>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** `null` if the account is unknown. */
  useOf(account: string): BudgetUse | null {
    const known = this.#accounts.get(account);
    if (known === undefined) return null;
    const { used, window, limits } = known;
    return { ...used, window, windowMs: limits.windowMs };
  }

  /**
   * Keeps what was used under the old limits, also if windows have another length. Creates an unknown account with
   * these limits; otherwise a request read before the change would create it with the old ones.
   */
  setLimits(account: string, limits: ModelBudget): void {
    const isKnown = this.#accounts.has(account);
    if (!isKnown && Object.keys(limits).length === 0) return;
    const known = this.#open({ account, limits });
    this.#roll(known);
    if (known.limits.windowMs !== limits.windowMs) known.window = this.#windowOf(limits);
    known.limits = limits;
  }

  /** The next request of the account begins at 0. */
  forget(account: string): void {
    this.#accounts.delete(account);
  }

  /** Merges the use kept on disk: an account has never used less than that. */
  restore(share: BudgetShare, kept: BudgetUse): void {
    const known = this.#open(share);
    this.#roll(known);
    const used = currentUse(known.limits, kept, this.#clock.wall());
    if (used === null || used.window < known.window) return;
    const isNewer = used.window > known.window;
    known.window = used.window;
    for (const kind of KINDS) {
      known.used[kind] = isNewer ? used[kind] : Math.max(known.used[kind], used[kind]);
    }
  }

  /** Reserves in all shares or in none. */
  reserve(shares: readonly BudgetShare[], wanted: Wanted): Reserved {
    const nowMs = this.#clock.now();
    const opened = shares.map((share) => this.#current(share));
    const { inputTokens, price = FREE, answers = 1 } = wanted;
    let { outputTokens } = wanted;
    const useWith = (completionTokens: number): Record<BudgetKind, number> => ({
      inputTokens,
      outputTokens: completionTokens,
      requests: 1,
      costNanoDollars: costOf(price, { promptTokens: inputTokens, completionTokens }),
    });
    // An answer can be cut to what is left, a prompt can't.
    const least = useWith(Math.min(answers, outputTokens));
    const usual = useWith(DEFAULT_OUTPUT_TOKENS);
    for (const [index, account] of opened.entries()) {
      const { limits, name, reserved, holders } = account;
      const owners = shares[index]?.holders ?? [];
      for (const by of KINDS) {
        const limit = limits[by];
        if (limit === undefined || least[by] === 0) continue;
        const isShared = owners.length > 0 && CUT_KINDS.has(by);
        const partOf = (rest: number): number =>
          isShared ? Math.min(rest, Math.max(usual[by], Math.floor(rest / 2))) : rest;
        const left = limit - account.used[by];
        if (partOf(left) < least[by]) {
          const used = account.used[by];
          return { kind: 'spent', by, limit, used, inMs: this.#untilNextMs(account), account: name };
        }
        const unheld = left - reserved[by];
        const parts = owners.map((owner) => {
          const ownHeld = holders.get(owner)?.[by] ?? 0;
          return partOf(unheld + ownHeld) - ownHeld;
        });
        const free = Math.min(unheld, ...parts);
        if (free < least[by]) return { kind: 'later', by, inMs: null, account: name };
        if (by === 'outputTokens') outputTokens = Math.min(outputTokens, free);
        if (by === 'costNanoDollars') {
          outputTokens = Math.min(outputTokens, affordableOutput(price, inputTokens, free) ?? outputTokens);
        }
      }
    }
    for (const account of opened) {
      if (!account.rate.tryOpen(nowMs)) {
        const { name } = account;
        return { kind: 'later', by: 'rate', inMs: account.rate.waitMs(nowMs), account: name };
      }
    }
    const most = useWith(outputTokens);
    // The rate is charged before the answer is known.
    const rated = inputTokens + Math.min(outputTokens, EXPECTED_OUTPUT_TOKENS);
    const holds = opened.map((account, index) => {
      const held = none();
      for (const kind of KINDS) {
        held[kind] = account.limits[kind] === undefined ? Math.min(most[kind], UNLIMITED_HELD_MAX) : most[kind];
      }
      add(account.reserved, held, 1);
      const owners = shares[index]?.holders ?? [];
      for (const owner of owners) hold(account, owner, held, 1);
      account.rate.spend(rated);
      return { account, owners, held };
    });
    let isOver = false;
    const end = (used: Record<BudgetKind, number>): void => {
      if (isOver) return;
      isOver = true;
      for (const { account, owners, held } of holds) {
        this.#roll(account);
        add(account.reserved, held, -1);
        for (const owner of owners) hold(account, owner, held, -1);
        for (const kind of KINDS) account.used[kind] = sum(account.used[kind], used[kind]);
        account.rate.spend(used.inputTokens + used.outputTokens - rated);
      }
    };
    const reservation: Reservation = {
      outputTokens,
      limitsCost: opened.some(({ limits }) => limits.costNanoDollars !== undefined),
      limitsOutput: opened.some(
        ({ limits }) => limits.outputTokens !== undefined || (limits.costNanoDollars !== undefined && price.output > 0),
      ),
      settle: (used) => end({ ...used, requests: 1 }),
      release: () => end(none()),
    };
    return { kind: 'reserved', reservation };
  }

  #current(share: BudgetShare): Account {
    // The owner may have changed the limits.
    if (share.holders !== undefined) this.setLimits(share.account, share.limits);
    const account = this.#open(share);
    this.#roll(account);
    const { tokensPerMinute } = account.limits;
    const rate =
      tokensPerMinute === undefined ? undefined : { size: tokensPerMinute, refillPerSecond: tokensPerMinute / 60 };
    account.rate.setLimit(rate, this.#clock.now());
    return account;
  }

  /** A clock that is set back starts no new window. */
  #roll(account: Account): void {
    const window = this.#windowOf(account.limits);
    if (window <= account.window) {
      account.window = windowFrom(account.window, window);
      return;
    }
    account.window = window;
    account.used = none();
  }

  #windowOf(limits: ModelBudget): number {
    return windowAt(limits, this.#clock.wall());
  }

  #untilNextMs({ limits: { windowMs }, window }: Account): number | null {
    return windowMs === undefined ? null : (window + 1) * windowMs - this.#clock.wall();
  }

  #open({ account: name, limits, holders }: BudgetShare): Account {
    const known = this.#accounts.get(name);
    // Moves the account to the end: the map is in order of last use.
    this.#accounts.delete(name);
    const account = known ?? {
      name,
      limits,
      used: none(),
      reserved: none(),
      holders: new Map<string, Record<BudgetKind, number>>(),
      window: 0,
      rate: new TokenBucket(undefined, this.#clock.now()),
      isShared: false,
    };
    if (holders !== undefined) account.isShared = true;
    this.#accounts.set(name, account);
    if (this.#accounts.size > ACCOUNTS_MAX) this.#forget();
    return account;
  }

  #forget(): void {
    for (const [name, { reserved, isShared }] of this.#accounts) {
      if (reserved.requests > 0 || isShared) continue;
      this.#accounts.delete(name);
      return;
    }
  }
}
