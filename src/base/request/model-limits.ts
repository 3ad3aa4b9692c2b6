/** What a sandbox may have of the models: its place in the queue, and its budget. */

/** Best first. */
export const MODEL_PRIORITIES = ['interactive', 'normal', 'batch'] as const;
export type ModelPriority = (typeof MODEL_PRIORITIES)[number];

/** An absent limit means unlimited. */
export interface ModelBudget {
  /** Tokens of prompts, per window. */
  readonly inputTokens?: number;
  /** Tokens of answers, per window. */
  readonly outputTokens?: number;
  /** Requests that were sent to a model server, per window. */
  readonly requests?: number;
  /** What requests cost by the prices of their routes, in billionths of a dollar, per window. */
  readonly costNanoDollars?: number;
  /** Windows begin at multiples of this since 1970, so days begin at midnight UTC. Absent: the whole life. */
  readonly windowMs?: number | undefined;
  /** Rate of prompts and answers together. A minute's tokens may be used at once. */
  readonly tokensPerMinute?: number;
}

/** It has windows, or a restart of the daemon would have to begin it anew. */
export type WindowedBudget = ModelBudget & { readonly windowMs: number };

/** Answers that a sandbox's equal requests get again, and those of its tenant's other sandboxes that have this, too. */
export interface ModelCache {
  /** Age of an answer, at most. */
  readonly ttlMs: number;
  /**
   * `repeatable`, as by default: requests whose model would say the same again, so those with `temperature: 0` or a seed and
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

/** The budget of a tenant's sandboxes together, or of all. */
export interface SharedBudget {
  /** Null: of all sandboxes of the host. */
  readonly tenant: string | null;
  readonly limits: WindowedBudget;
  /** Null: nothing yet. */
  readonly used: BudgetUse | null;
}

/** Use in the current window. */
export interface BudgetUse {
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly requests: number;
  readonly costNanoDollars: number;
  /** Number of the window since 1970; 0 without windows. */
  readonly window: number;
  /** Length of the window. Absent: there is none, or the budget tells, as in what older versions have stored. */
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
 * The window of a use that was noted in `window`, if it is `now`. A clock that is set back ends no window; but if it had been
 * far ahead, a use counts only until the end of the next one.
 */
export const windowFrom = (window: number, now: number): number => Math.min(window, now + 1);

/**
 * What counts of a use in the windows of this budget; null: its window is over. If windows had another length before, it
 * counts in the one that is now. A clock that is set back ends no window.
 * @param wallMs milliseconds since 1970
 */
export function currentUse({ windowMs }: ModelBudget, used: BudgetUse, wallMs: number): BudgetUse | null {
  const before = used.windowMs ?? (used.window === 0 ? undefined : windowMs);
  if (used.window < windowAt({ windowMs: before }, wallMs)) return null;
  const now = windowAt({ windowMs }, wallMs);
  const window = before === windowMs ? windowFrom(used.window, now) : now;
  return { ...used, window, windowMs };
}

/** The limits of a budget, with their use in the window of this time. @param wallMs milliseconds since 1970 */
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
