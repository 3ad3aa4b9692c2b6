/** What a sandbox may ask models. */
import {
  type BudgetUse,
  CACHED_REQUESTS,
  MODEL_PRIORITIES,
  type ModelBudget,
  type ModelCache,
  type ModelPriority,
} from '../../base/request/model-limits.ts';
import { isFieldPath } from '../../base/text/field-path.ts';
import { check, inRange, inRanges } from './checks.ts';
import { RANGES, type Range, REQUEST_LIMITS } from './limits.ts';

export interface ModelPolicy {
  /** The value of `NEUROVISOR_MODEL`; this model is always allowed. Null: not set. */
  readonly defaultModel: string | null;
  /** Allowed model names; null: all that the upstream offers. */
  readonly allow: readonly string[] | null;
  /** The guest's name of a model → the upstream's name. */
  readonly aliases: Readonly<Record<string, string>>;
  /** Models whose prompts may leave this host, if they are served elsewhere; `all`: every one. */
  readonly allowHosted: readonly string[];
  /** Fields of requests that the bridge would refuse otherwise, by their paths, e.g. `enable_search`. */
  readonly allowFields: readonly string[];
  /** In the queue of a model server. */
  readonly priority: ModelPriority;
  /** Forks share it with the original. */
  readonly budget: ModelBudget;
  /** Null: each request reaches a model server. */
  readonly cache: ModelCache | null;
}

/** What requests have used of a budget. */
export interface ModelAccount {
  /** Id of the sandbox that had the budget first. */
  readonly id: string;
  readonly used?: BudgetUse;
}

export const NO_MODEL_POLICY: ModelPolicy = {
  defaultModel: null,
  allow: null,
  aliases: {},
  allowHosted: [],
  allowFields: [],
  priority: 'normal',
  budget: {},
  cache: null,
};

/**
 * Adds a default model where `models` has none: the upstream's first, or the first allowed one if that is not allowed.
 * @param offered the upstream's first model; null: it has none
 */
export function withDefaultModel(
  models: Partial<ModelPolicy> | undefined,
  offered: string | null,
): Partial<ModelPolicy> {
  const allow = models?.allow ?? null;
  const defaultModel = allow === null || allow.includes(offered ?? '') ? offered : (allow[0] ?? null);
  return { defaultModel, ...models };
}

const BUDGET_RANGES = {
  inputTokens: RANGES.modelBudget,
  outputTokens: RANGES.modelBudget,
  requests: RANGES.modelBudget,
  costNanoDollars: RANGES.modelCostNanoDollars,
  windowMs: RANGES.modelWindowMs,
  tokensPerMinute: RANGES.modelBudget,
} satisfies Record<keyof ModelBudget, Range>;

/** @throws SandboxError `spec_invalid` */
export function checkBudget(asked: ModelBudget): ModelBudget {
  const budget = inRanges('models.budget', asked, BUDGET_RANGES);
  const { windowMs, tokensPerMinute: _rate, ...limits } = budget;
  const isLimited = windowMs === undefined || Object.keys(limits).length > 0;
  check(isLimited, 'models.budget', 'a window needs a limit of tokens, requests or cost');
  return budget;
}

/** @throws SandboxError `spec_invalid` */
export function checkCache(cache: ModelCache | null): ModelCache | null {
  if (cache === null) return null;
  const { ttlMs, requests = 'repeatable' } = cache;
  const isKnown = CACHED_REQUESTS.includes(requests);
  check(isKnown, 'models.cache', `requests is ${CACHED_REQUESTS.join(' or ')}`);
  return { ttlMs: inRange('models.cache.ttlMs', ttlMs, RANGES.modelCacheTtlMs), requests };
}

/** Id of the account of its budget: of a fork, that of the first original. */
export function modelAccountOf({
  id,
  modelAccount,
}: {
  readonly id: string;
  readonly modelAccount?: ModelAccount | undefined;
}): string {
  return modelAccount?.id ?? id;
}

/** Fills in the defaults. @throws SandboxError `spec_invalid` */
export function makeModelPolicy(options: Partial<ModelPolicy>): ModelPolicy {
  const models: ModelPolicy = {
    defaultModel: options.defaultModel ?? null,
    allow: options.allow ?? null,
    aliases: options.aliases ?? {},
    allowHosted: options.allowHosted ?? [],
    allowFields: options.allowFields ?? [],
    priority: options.priority ?? 'normal',
    budget: checkBudget(options.budget ?? {}),
    cache: checkCache(options.cache ?? null),
  };
  check(MODEL_PRIORITIES.includes(models.priority), 'models', `a priority is ${MODEL_PRIORITIES.join(', ')}`);
  const { allowedFieldsMax: fields } = REQUEST_LIMITS;
  check(models.allowFields.length <= fields, 'models', `at most ${fields} allowed fields`);
  for (const path of models.allowFields) {
    const why = `"${path.slice(0, 80)}" is not a field, such as enable_search or messages.content.uuid`;
    check(isFieldPath(path), 'models', why);
  }
  for (const name of [
    models.defaultModel ?? 'x',
    ...(models.allow ?? []),
    ...models.allowHosted,
    ...Object.entries(models.aliases).flat(),
  ]) {
    const { modelNameCharactersMax: most } = REQUEST_LIMITS;
    const ok = name.length > 0 && name.length <= most && !/\p{Cc}/u.test(name);
    check(ok, 'models', `a model name has 1 to ${most} printable characters`);
  }
  return models;
}
