/** The models that a sandbox may use, and under which names. Set on the host, per port. */

import { accepted, type Checked, refused } from '../../base/http/refusal.ts';
import type { ModelBudget, ModelCache, ModelPriority } from '../../base/request/model-limits.ts';
import { matchesAny } from '../../base/text/glob.ts';
import type { BridgeLimits } from './limits.ts';

export interface BridgePolicy {
  /** Allowed upstream names. Default: all that the upstream lists. */
  readonly allowModels?: readonly string[];
  /** The operator's patterns for the sandbox's tenant, for names at the upstream. Default: all. */
  readonly tenantModels?: readonly string[];
  /**
   * Requested name → upstream name; `*` matches every name that does not exist otherwise. Targets and `defaultModel`
   * are allowed even if `allowModels` omits them.
   */
  readonly aliases?: Readonly<Record<string, string>>;
  /**
   * Used if a request names no model, `default`, or a missing model of a hosted service (`gpt-4o-mini`), so that agents
   * written for those services run unchanged. Without it, such requests get 404.
   */
  readonly defaultModel?: string;
  /**
   * Models whose prompts may leave this host according to a route table; `all` allows every one. Default: none. Has no
   * effect without a table.
   */
  readonly allowHosted?: readonly string[];
  /** Paths of fields that pass unchecked, e.g. `enable_search`, `messages.content.uuid`: see `fields.ts`. */
  readonly allowFields?: readonly string[];
  /** If true, answers keep what reveals cache hits, so a sandbox may see what others have asked. */
  readonly showCacheHits?: boolean;
  readonly priority?: ModelPriority;
  /** Budget of the sandbox, or of all sandboxes that share its account. */
  readonly budget?: ModelBudget;
  readonly cache?: ModelCache;
  readonly limits?: Partial<BridgeLimits>;
}

export interface ModelEntry {
  readonly id: string;
  /** Seconds since 1970; 0 if unknown. */
  readonly created: number;
  readonly ownedBy: string;
}

/** Built-in default names of clients, which no local model has. */
const HOSTED_NAME = /^(?:(?:gpt|chatgpt|claude|gemini)-|o[1-9](?:-|$)|text-(?:embedding|davinci)-|davinci-|babbage-)/;

/** Names of embedding models. A wrong guess leads to a 404 that lists the models, never to wrong vectors. */
const EMBEDDING_NAME =
  /embed|(?:^|[/_-])(?:bge|gte|e5|sbert|minilm|mpnet|labse|arctic|m3e|instructor)(?:[:/._-]|$)|minilm|mpnet/i;

export const isEmbeddingModel = (name: string): boolean => EMBEDDING_NAME.test(name);

/** `named`: only a model that the request names, since the default one would not do, as for audio. */
export type ModelUse = 'text' | 'embeddings' | 'named';

const MODELS_NAMED_MAX = 20;
const MODEL_ID_CHARACTERS_SHOWN_MAX = 100;

/**
 * The upstream name for the model that a guest requested. An embedding request for a missing model is mapped only to a
 * model whose name is that of an embedding model: vectors of a chat model would be wrong without any error.
 * @param listed models of the upstream; `null` if unknown, and then any name passes unless `allowModels` omits it
 */
export function resolveModel(
  asked: string | undefined,
  policy: BridgePolicy,
  listed: readonly string[] | null,
  use: ModelUse = 'text',
): Checked<string> {
  const found = findModel(asked, policy, listed?.filter((name) => isForTenant(name, policy)) ?? null, use);
  const name = found.ok ? found.value : (asked ?? '');
  if (name === '' || isForTenant(name, policy)) return found;
  const shown = JSON.stringify(name.slice(0, MODEL_ID_CHARACTERS_SHOWN_MAX));
  const message = `The operator of this host does not allow this sandbox the model ${shown}. ${available(policy, listed)}`;
  return refused(403, 'model_forbidden', message, { param: 'model' });
}

/** Whether the operator allows the model to the sandbox's tenant. */
export const isForTenant = (model: string, { tenantModels }: BridgePolicy): boolean =>
  tenantModels === undefined || matchesAny(tenantModels, model);

function findModel(
  asked: string | undefined,
  policy: BridgePolicy,
  listed: readonly string[] | null,
  use: ModelUse,
): Checked<string> {
  const aliases = policy.aliases ?? {};
  const name = asked ?? '';
  const direct = ownValue(aliases, name);
  if (direct !== undefined && name !== '*') return accepted(direct);
  const unnamed = name === '' || name === 'default';
  const there = policy.allowModels ?? listed;
  if (there === null && !unnamed) return accepted(name);
  if (there?.includes(name)) return accepted(name);
  // Ollama lists `llama3:latest`; clients request `llama3`.
  if (there?.includes(`${name}:latest`)) return accepted(`${name}:latest`);
  // Ollama clients may add a tag to a model that another server lists without it.
  const untagged = name.replace(/:latest$/, '');
  const untaggedAlias = untagged === '*' ? undefined : ownValue(aliases, untagged);
  if (untaggedAlias !== undefined) return accepted(untaggedAlias);
  if (untagged !== '' && there?.includes(untagged)) return accepted(untagged);
  if (name !== '' && name === policy.defaultModel) return accepted(name);
  const rest = ownValue(aliases, '*');
  const isHosted = unnamed || HOSTED_NAME.test(name);
  const fallback = rest ?? (isHosted ? policy.defaultModel : undefined);
  const fits = use === 'text' || (use === 'embeddings' && EMBEDDING_NAME.test(fallback ?? ''));
  if (fallback !== undefined && fits) {
    return accepted(fallback);
  }
  if (use === 'embeddings' && isHosted) {
    const [only, ...others] = (there ?? []).filter((id) => EMBEDDING_NAME.test(id));
    if (only !== undefined && others.length === 0) return accepted(only);
  }
  return unknownModel(name, available(policy, listed));
}

export function mayUse(model: string, policy: BridgePolicy): boolean {
  const { allowModels, aliases = {}, defaultModel } = policy;
  if (!isForTenant(model, policy)) return false;
  if (allowModels === undefined || allowModels.includes(model)) return true;
  return model === defaultModel || Object.values(aliases).includes(model);
}

export function visibleModels(policy: BridgePolicy, listed: readonly ModelEntry[] | null): ModelEntry[] {
  const known = new Map((listed ?? []).map((entry) => [entry.id, entry]));
  const names = visibleNames(policy, listed === null ? null : [...known.keys()]);
  return names.map((id) => {
    const target = ownValue(policy.aliases ?? {}, id) ?? id;
    const { created, ownedBy } = known.get(target) ?? { created: 0, ownedBy: 'neurovisor' };
    return { id, created, ownedBy };
  });
}

function visibleNames(policy: BridgePolicy, listed: readonly string[] | null): string[] {
  const names = new Set(policy.allowModels ?? listed ?? []);
  if (policy.defaultModel !== undefined) names.add(policy.defaultModel);
  const { aliases = {} } = policy;
  for (const name of Object.keys(aliases)) if (name !== '*') names.add(name);
  return [...names].filter((name) => isForTenant(ownValue(aliases, name) ?? name, policy));
}

function available(policy: BridgePolicy, listed: readonly string[] | null): string {
  const names = visibleNames(policy, listed);
  const some = names.slice(0, MODELS_NAMED_MAX).join(', ');
  const more = names.length > MODELS_NAMED_MAX ? ` and ${names.length - MODELS_NAMED_MAX} more` : '';
  return names.length === 0 ? 'No model is available.' : `Available: ${some}${more}.`;
}

function unknownModel(name: string, list: string): Checked<never> {
  const shown = JSON.stringify(name.slice(0, MODEL_ID_CHARACTERS_SHOWN_MAX));
  return refused(404, 'model_not_found', `The model ${shown} does not exist here. ${list}`, { param: 'model' });
}

/** Names come from guests: `constructor` must not find an inherited member. */
function ownValue(record: Readonly<Record<string, string>>, name: string): string | undefined {
  return Object.hasOwn(record, name) ? record[name] : undefined;
}
