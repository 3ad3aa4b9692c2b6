/**
 * What sandboxes have used of their budgets (B10). A request reserves the most that it can use before it is sent, and
 * settles what it has used afterwards, so requests at once never exceed a budget together. Each step is synchronous: pure
 * but for the clock.
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
  /** Of an account that is not known yet; of a shared one now. */
  readonly limits: ModelBudget;
  /**
   * For an account that several share: the one who asks, and its groups. Each of them leaves a part of what remains of
   * answers and cost to others. Absent: the account has one user.
   */
  readonly holders?: readonly string[];
}

export interface Wanted {
  /** Estimated tokens of the prompt. */
  readonly inputTokens: number;
  /** The most tokens of all answers. */
  readonly outputTokens: number;
  /** Each gets at least one token. Default 1. */
  readonly answers?: number;
  /** The dearest of the routes that it may take. */
  readonly price?: Price;
}

/** What a request has used. */
export type RequestUse = Omit<Record<BudgetKind, number>, 'requests'>;

export type Reserved =
  | { readonly kind: 'reserved'; readonly reservation: Reservation }
  /** Later: requests in flight hold what is left, or the rate is used up. */
  | { readonly kind: 'later'; readonly inMs: number | null; readonly by: BudgetKind | 'rate'; readonly account: string }
  /** `inMs`: until the next window; null: there is none. */
  | { readonly kind: 'spent'; readonly by: BudgetKind; readonly inMs: number | null; readonly account: string };

export interface Reservation {
  /** At most what was wanted, and at least 1 for each answer if that was. */
  readonly outputTokens: number;
  /** A limit of cost holds. */
  readonly limitsCost: boolean;
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
  readonly reserved: Record<BudgetKind, number>;
  /** Their parts of what is reserved. */
  readonly holders: Map<string, Record<BudgetKind, number>>;
  window: number;
  readonly rate: TokenBucket;
  isShared: boolean;
}

/** Accounts of one user of which nothing is in flight are forgotten beyond this, those first that were not used for longest. */
const ACCOUNTS_MAX = 10_000;
/**
 * One holder has at most half of what others leave of these, or as much as one usual answer: a length that no model
 * writes would hold all of it until its answer ends.
 */
const CUT_KINDS: ReadonlySet<BudgetKind> = new Set(['outputTokens', 'costNanoDollars']);
/** Held of what has no limit, which a guest may name as large as it likes: sums stay exact. */
const UNLIMITED_HELD_MAX = 1e9;

const none = (): Record<BudgetKind, number> => ({ inputTokens: 0, outputTokens: 0, requests: 0, costNanoDollars: 0 });

/** The counts are an upstream's, so their sum may have no exact number. */
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

  /** Null: nothing is known of it. */
  useOf(account: string): BudgetUse | null {
    const known = this.#accounts.get(account);
    if (known === undefined) return null;
    const { used, window, limits } = known;
    return { ...used, window, windowMs: limits.windowMs };
  }

  /**
   * What was used of the old limits stays used, also if windows have another length. An account that is not known yet
   * begins with these limits, or a request that was read before the change would begin it with the old ones.
   */
  setLimits(account: string, limits: ModelBudget): void {
    const isKnown = this.#accounts.has(account);
    if (!isKnown && Object.keys(limits).length === 0) return;
    const known = this.#open({ account, limits });
    this.#roll(known);
    if (known.limits.windowMs !== limits.windowMs) known.window = this.#windowOf(limits);
    known.limits = limits;
  }

  /** Reads what was kept on disk: an account never has used less than that. */
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

  /** Reserves in all shares, or in none. */
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
    // An answer is cut to what is left, a prompt can't be.
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
          return { kind: 'spent', by, inMs: this.#untilNextMs(account), account: name };
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
    // Charged to the rate before an answer is there.
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
    // Its owner may have changed them.
    if (share.holders !== undefined) this.setLimits(share.account, share.limits);
    const account = this.#open(share);
    this.#roll(account);
    const { tokensPerMinute } = account.limits;
    const rate =
      tokensPerMinute === undefined ? undefined : { size: tokensPerMinute, refillPerSecond: tokensPerMinute / 60 };
    account.rate.setLimit(rate, this.#clock.now());
    return account;
  }

  /** A clock that is set back begins no window anew. */
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
    // The order of the map is that of the last uses.
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
