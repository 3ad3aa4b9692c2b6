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
  readonly windowMs?: number;
  /** Rate of prompts and answers together. A minute's tokens may be used at once. */
  readonly tokensPerMinute?: number;
}

/** Use in the current window. */
export interface BudgetUse {
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly requests: number;
  readonly costNanoDollars: number;
  /** Number of the window since 1970; 0 without windows. */
  readonly window: number;
}

/** Allows every hosted model in `allowHosted`; no model of a table has this name. */
export const EVERY_HOSTED = 'all';
