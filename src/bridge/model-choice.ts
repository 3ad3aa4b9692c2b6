/** Which of the upstream's models a request is for (io). */
import { orAborted } from '../base/time-limit.ts';
import { callerKey } from './caller-key.ts';
import type { Operation } from './dialect/dialect.ts';
import { BridgeError } from './errors.ts';
import { type BridgePolicy, type ModelEntry, resolveModel, visibleModels } from './policy.ts';
import type { Checked } from './refusal.ts';
import type { UpstreamTarget } from './upstream/address.ts';
import type { Catalog } from './upstream/catalog.ts';

export interface ModelSource {
  readonly policy: BridgePolicy;
  readonly catalog: Catalog;
  readonly target: UpstreamTarget;
  /** Ends a wait for the upstream, with its reason. */
  readonly signal: AbortSignal;
}

/**
 * The models that the sandbox may use.
 * @throws BridgeError `upstream_unreachable`, or the signal's reason
 */
export async function listedModels({ policy, catalog, target, signal }: ModelSource): Promise<{
  readonly visible: readonly ModelEntry[];
  /** One of them, under the name by which the sandbox knows it. */
  entry(id: string): Checked<ModelEntry>;
}> {
  const listed = await orAborted(catalog.refresh(target), signal);
  if (listed === null && policy.allowModels === undefined) {
    throw new BridgeError('upstream_unreachable', `ask ${target.name} for its models`);
  }
  const visible = visibleModels(policy, listed);
  return {
    visible,
    entry(id) {
      const resolved = resolveModel(id, policy, namesOf(listed));
      if (!resolved.ok) return resolved;
      const model = visible.find((one) => one.id === id || one.id === resolved.value);
      return { ok: true, value: { created: 0, ownedBy: 'neurovisor', ...model, id } };
    },
  };
}

/** The upstream's name for the model that a request names. @throws the signal's reason */
export async function chosenModel(
  { policy, catalog, target, signal }: ModelSource,
  asked: string | undefined,
  operation: Operation,
): Promise<Checked<string>> {
  const use = operation.generates ? 'text' : 'embeddings';
  const isAlias = asked !== undefined && Object.hasOwn(policy.aliases ?? {}, asked);
  if (isAlias || policy.allowModels !== undefined) return resolveModel(asked, policy, null, use);
  const known = await orAborted(catalog.models(target), signal);
  const resolved = resolveModel(asked, policy, namesOf(known), use);
  if (resolved.ok) return resolved;
  const refreshed = await orAborted(catalog.refresh(target), signal);
  return resolveModel(asked, policy, namesOf(refreshed), use);
}

/** `owned_by` in the model lists of servers that understand `cache_salt`. */
const SALTED_OWNERS = new Set(['vllm', 'sglang', 'neurovisor']);

/**
 * A salt keeps the sandbox's prompts apart in the upstream's cache. Only for servers that understand the field;
 * others, e.g. hosted services, refuse unknown ones.
 */
export async function cacheSalt(
  { catalog, target, signal }: ModelSource,
  model: string,
  sandboxId: string,
): Promise<{ cache_salt?: string }> {
  const list = await orAborted(catalog.models(target), signal);
  const entry = list?.find(({ id }) => id === model) ?? list?.[0];
  if (entry === undefined || !SALTED_OWNERS.has(entry.ownedBy)) return {};
  return { cache_salt: callerKey(sandboxId, 'cache') };
}

function namesOf(listed: readonly ModelEntry[] | null): string[] | null {
  return listed?.map(({ id }) => id) ?? null;
}
