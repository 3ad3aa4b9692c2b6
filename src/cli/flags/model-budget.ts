/** `--model-budget`: what a sandbox, a tenant or the whole host may use of the models. */
import type { ModelBudget, WindowedBudget } from '../../base/request/model-limits.ts';
import { COST_DECIMALS_MAX, dollarsText, parseDollars } from '../../base/text/dollars.ts';
import { RANGES } from '../../sandbox/contract/limits.ts';
import type { ModelPolicy } from '../../sandbox/contract/model-policy.ts';
import { UsageError } from '../failure.ts';
import type { Row } from './field.ts';
import { durationText, type LimitWord, parseDuration, parseLimits } from './options.ts';

const OPTION = '--model-budget';
const COUNT = { parse: parseAmount, ...RANGES.modelBudget };
/** `rate`: tokens per minute, prompts and answers together. */
const WORDS: Readonly<Record<string, LimitWord<keyof ModelBudget>>> = {
  input: { field: 'inputTokens', ...COUNT },
  output: { field: 'outputTokens', ...COUNT },
  requests: { field: 'requests', ...COUNT },
  cost: { field: 'costNanoDollars', parse: parseCost, ...RANGES.modelCostNanoDollars, format: dollarsText },
  rate: { field: 'tokensPerMinute', ...COUNT },
  per: { field: 'windowMs', parse: parseDuration, ...RANGES.modelWindowMs, format: durationText },
};

const EXAMPLE = 'input=1M,output=200k,requests=500,cost=5,per=1d';

const UNITS: Readonly<Record<string, number>> = { '': 1, k: 1e3, M: 1e6, G: 1e9 };

/** `200k`, `1.5M` → a whole number; units are decimal. @throws UsageError */
function parseAmount(text: string): number {
  const match = /^(\d+(?:\.\d+)?)([kMG]?)$/.exec(text);
  const unit = UNITS[match?.[2] ?? ''];
  if (match === null || unit === undefined) {
    throw new UsageError(`invalid number "${text}"`, 'use a whole number, or one with a unit, for example 200k or 1M');
  }
  return Math.round(Number(match[1]) * unit);
}

/** Dollars → billionths of a dollar. @throws UsageError */
function parseCost(text: string): number {
  const cost = parseDollars(text);
  if (cost !== null) return cost;
  throw new UsageError(
    `invalid number of dollars "${text}"`,
    `use a number with at most ${COST_DECIMALS_MAX} decimals, for example 5 or 0.25`,
  );
}

/** Of a sandbox. */
export const BUDGET_FIELD = {
  flags: `${OPTION} <limits>`,
  help: 'budget for models, shared with forks, for example input=1M,output=200k,requests=500,cost=5,rate=50k,per=1d (cost in dollars; rate: tokens per minute), or none; without per, for the whole life',
  field: 'budget',
  parseAll: parseBudget,
} as const satisfies Row<ModelPolicy>;

/** Reads `input=1M,output=200k,rate=50k,per=1d`; several options form one list, and `none` is an empty one. @throws UsageError */
export function parseBudget(texts: readonly string[]): ModelBudget {
  const limits = parseLimits(OPTION, WORDS, EXAMPLE, texts);
  const { windowMs, tokensPerMinute: _, ...counts } = limits;
  if (windowMs === undefined || Object.keys(counts).length > 0) return limits;
  throw new UsageError(`${OPTION} per= needs a limit`, 'add for example output=200k');
}

/**
 * Reads the budget of the host or a tenant, which has a window and no rate.
 * @returns undefined if the option was not given; null for `none`
 * @throws UsageError
 */
export function parseSharedBudget(texts: readonly string[]): WindowedBudget | null | undefined {
  if (texts.length === 0) return undefined;
  const { windowMs, tokensPerMinute, ...limits } = parseBudget(texts);
  if (tokensPerMinute !== undefined)
    throw new UsageError(`${OPTION} rate= is only for sandboxes`, 'give it to run, create or update');
  if (windowMs !== undefined) return { ...limits, windowMs };
  if (Object.keys(limits).length === 0) return null;
  throw new UsageError(`${OPTION} needs a window`, 'add for example per=1d');
}

/** `output=5000000,cost=20,per=1d`, as `parseSharedBudget` reads it. */
export function budgetWords(budget: ModelBudget | null): string {
  if (budget === null) return 'none';
  const words = Object.entries(WORDS).flatMap(([name, { field, format = String }]) => {
    const value = budget[field];
    return value === undefined ? [] : [`${name}=${format(value)}`];
  });
  return words.join(',');
}
