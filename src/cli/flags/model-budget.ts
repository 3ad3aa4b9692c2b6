/** `--budget`, `--tokens-per-minute`: what a sandbox may use of the models. */

import type { ModelBudget, WindowedBudget } from '../../base/request/model-limits.ts';
import { COST_DECIMALS_MAX, dollarsText, parseDollars } from '../../base/text/dollars.ts';
import { RANGES } from '../../sandbox/contract/limits.ts';
import { UsageError } from '../failure.ts';
import { type LimitWord, parseLimits } from './limit-list.ts';
import { durationText, parseDuration } from './options.ts';

export interface BudgetFlags {
  readonly budget?: readonly string[];
  readonly tokensPerMinute?: number;
}

export interface BudgetChangeFlags {
  readonly budget?: readonly string[];
  /** Null: none. */
  readonly tokensPerMinute?: number | null;
}

const COUNT = { parse: parseAmount, ...RANGES.modelBudget };
const WORDS: Readonly<Record<string, LimitWord<keyof ModelBudget>>> = {
  input: { field: 'inputTokens', ...COUNT },
  output: { field: 'outputTokens', ...COUNT },
  requests: { field: 'requests', ...COUNT },
  cost: { field: 'costNanoDollars', parse: parseCost, ...RANGES.modelCostNanoDollars, format: dollarsText },
  per: { field: 'windowMs', parse: parseDuration, ...RANGES.modelWindowMs, format: durationText },
};

const EXAMPLE = 'input=1M,output=200k,requests=500,cost=5,per=1d';

const UNITS: Readonly<Record<string, number>> = { '': 1, k: 1e3, M: 1e6, G: 1e9 };

/** `200k`, `1.5M` → a whole number; units are decimal. @throws UsageError */
export function parseAmount(text: string): number {
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

/** `input=1M,output=200k,per=1d`; several options form one list. @returns undefined: neither option was given. @throws UsageError */
export function parseBudget(flags: BudgetFlags): ModelBudget | undefined {
  const { budget: texts = [], tokensPerMinute } = flags;
  const limits = parseLimits('--budget', WORDS, EXAMPLE, texts);
  if (limits === undefined && tokensPerMinute === undefined) return undefined;
  const { windowMs, ...counts } = limits ?? {};
  if (windowMs !== undefined && Object.keys(counts).length === 0) {
    throw new UsageError('--budget per= needs a limit', 'add for example output=200k, or use --tokens-per-minute');
  }
  return { ...limits, ...(tokensPerMinute === undefined ? {} : { tokensPerMinute }) };
}

export function isBudgetChange({ budget = [], tokensPerMinute }: BudgetChangeFlags): boolean {
  return budget.length > 0 || tokensPerMinute !== undefined;
}

/** What is not named stays: `--budget` names all limits but the rate. @throws UsageError */
export function changedBudget({ budget = [], tokensPerMinute }: BudgetChangeFlags, current: ModelBudget): ModelBudget {
  const { tokensPerMinute: rate, ...limits } = current;
  const named = parseBudget({ budget }) ?? limits;
  const next = tokensPerMinute === undefined ? rate : (tokensPerMinute ?? undefined);
  return { ...named, ...(next === undefined ? {} : { tokensPerMinute: next }) };
}

/** `--model-budget` of the host or a tenant. @returns undefined: not given; null: none. @throws UsageError */
export function parseSharedBudget(texts: readonly string[]): WindowedBudget | null | undefined {
  const parsed = parseLimits('--model-budget', WORDS, EXAMPLE, texts);
  if (parsed === undefined) return undefined;
  const { windowMs, ...limits } = parsed;
  const isNone = Object.keys(limits).length === 0;
  if (isNone && windowMs === undefined) return null;
  if (isNone) throw new UsageError('--model-budget per= needs a limit', 'add for example cost=20');
  if (windowMs !== undefined) return { ...limits, windowMs };
  throw new UsageError('--model-budget needs a window', 'add for example per=1d');
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
