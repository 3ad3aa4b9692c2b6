/** A sandbox's limits for models: its priority in the queue, and its budget. */

/** Best first. */
export const MODEL_PRIORITIES = ['interactive', 'normal', 'batch'] as const;
export type ModelPriority = (typeof MODEL_PRIORITIES)[number];

/** An omitted limit means unlimited. */
export interface ModelBudget {
  /** Prompt tokens per window. */
  readonly inputTokens?: number;
  /** Answer tokens per window. */
  readonly outputTokens?: number;
  /** Requests sent to a model server, per window. */
  readonly requests?: number;
  /** Cost of requests by the prices of their routes, in billionths of a dollar, per window. */
  readonly costNanoDollars?: number;
  /** Windows begin at multiples of this since 1970, so days begin at midnight UTC. Default: the whole life. */
  readonly windowMs?: number | undefined;
  /** Rate of prompt and answer tokens together. A minute's tokens may be used at once. */
  readonly tokensPerMinute?: number;
}

/** Has windows; otherwise a restart of the daemon would have to reset it. */
export type WindowedBudget = ModelBudget & { readonly windowMs: number };

/** Caches answers for equal requests of a sandbox, and of its tenant's other sandboxes with a cache. */
export interface ModelCache {
  /** Maximum age of an answer. */
  readonly ttlMs: number;
  /**
   * `repeatable` (default): requests whose model would say the same again, so those with `temperature: 0` or a seed and
   * without tools, and embeddings. `all`: every request.
   */
  readonly requests?: CachedRequests;
}

export const CACHED_REQUESTS = ['repeatable', 'all'] as const;
export type CachedRequests = (typeof CACHED_REQUESTS)[number];

/** The account of all sandboxes together; no sandbox has this id. */
export const HOST_ACCOUNT = 'host';
const TENANT_ACCOUNT = 'tenant:';
/** The account of all sandboxes of a tenant; no sandbox has this id. */
export const tenantAccount = (tenant: string): string => `${TENANT_ACCOUNT}${tenant}`;
export const isTenantAccount = (account: string): boolean => account.startsWith(TENANT_ACCOUNT);
/** `null` for another account. */
export const tenantOfAccount = (account: string): string | null =>
  isTenantAccount(account) ? account.slice(TENANT_ACCOUNT.length) : null;

/** The shared budget of a tenant's sandboxes, or of all. */
export interface SharedBudget {
  /** `null`: all sandboxes of the host. */
  readonly tenant: string | null;
  readonly limits: WindowedBudget;
  /** `null` if nothing was used yet. */
  readonly used: BudgetUse | null;
}

export interface BudgetUse {
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly requests: number;
  readonly costNanoDollars: number;
  /** Number of the window since 1970; 0 without windows. */
  readonly window: number;
  /** Length of the window. Omitted without one, or if the budget defines it, as in data of older versions. */
  readonly windowMs?: number | undefined;
}

export const BUDGET_KINDS = [
  'inputTokens',
  'outputTokens',
  'requests',
  'costNanoDollars',
] as const satisfies readonly (keyof ModelBudget & keyof BudgetUse)[];
export type BudgetKind = (typeof BUDGET_KINDS)[number];

export interface BudgetState {
  readonly kind: BudgetKind;
  readonly limit: number;
  readonly used: number;
  /** Never negative: a prompt may have used more than the rest. */
  readonly left: number;
}

/** @param wallMs milliseconds since 1970 */
export const windowAt = ({ windowMs }: ModelBudget, wallMs: number): number =>
  windowMs === undefined ? 0 : Math.floor(wallMs / windowMs);

/**
 * The window of a usage that was recorded in `window`, given the current window `now`. A clock that is set back ends no
 * window; but if it had been far ahead, a usage counts only until the end of the next one.
 */
export const windowFrom = (window: number, now: number): number => Math.min(window, now + 1);

/**
 * The part of a usage that counts in the windows of this budget; `null` if its window is over. If windows had another
 * length before, it counts in the current one. A clock that is set back ends no window.
 * @param wallMs milliseconds since 1970
 */
export function currentUse({ windowMs }: ModelBudget, used: BudgetUse, wallMs: number): BudgetUse | null {
  const before = used.windowMs ?? (used.window === 0 ? undefined : windowMs);
  if (used.window < windowAt({ windowMs: before }, wallMs)) return null;
  const now = windowAt({ windowMs }, wallMs);
  const window = before === windowMs ? windowFrom(used.window, now) : now;
  return { ...used, window, windowMs };
}

/** The limits of a budget, with their usage in the window of this time. @param wallMs milliseconds since 1970 */
export function budgetStates(budget: ModelBudget, used: BudgetUse | null, wallMs: number): readonly BudgetState[] {
  const now = used === null ? null : currentUse(budget, used, wallMs);
  return BUDGET_KINDS.flatMap((kind) => {
    const limit = budget[kind];
    if (limit === undefined) return [];
    const spent = now?.[kind] ?? 0;
    return [{ kind, limit, used: spent, left: Math.max(0, limit - spent) }];
  });
}

/** Allows every hosted model in `allowHosted`; no model of a table has this name. */
export const EVERY_HOSTED = 'all';
