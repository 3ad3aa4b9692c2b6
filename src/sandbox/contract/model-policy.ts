/** What a sandbox may ask models. */
import type { BudgetUse } from '../../base/request/model-limits.ts';
import { type ModelOptions, type ModelPolicy, modelOptions, NO_MODEL_POLICY } from './schema/models.ts';
import { parse } from './schema/parse.ts';

export { type ModelOptions, type ModelPolicy, NO_MODEL_POLICY } from './schema/models.ts';

/** What requests have used of a budget. */
export interface ModelAccount {
  /** Id of the sandbox that had the budget first. */
  readonly id: string;
  readonly used?: BudgetUse;
}

/**
 * Adds a default model where `models` has none: the upstream's first, or the first allowed one if that is not allowed.
 * @param offered the upstream's first model; null: it has none
 */
export function withDefaultModel(models: ModelOptions | undefined, offered: string | null): ModelOptions {
  const allow = models?.allow ?? null;
  const defaultModel = allow === null || allow.includes(offered ?? '') ? offered : (allow[0] ?? null);
  return { defaultModel, ...models };
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
export function makeModelPolicy(options: ModelOptions): ModelPolicy {
  const given = parse(modelOptions, options, 'models');
  const { cache = null } = given;
  return { ...NO_MODEL_POLICY, ...given, cache: cache && { requests: 'repeatable', ...cache } };
}
