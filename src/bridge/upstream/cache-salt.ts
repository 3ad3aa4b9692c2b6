import { orAborted } from '../../base/time-limit.ts';
import { callerKey } from '../caller-key.ts';
import type { UpstreamTarget } from './address.ts';
import type { Catalog } from './catalog.ts';

/** `owned_by` in the model lists of servers that understand `cache_salt`. */
const SALTED_OWNERS = new Set(['vllm', 'sglang', 'neurovisor']);

/**
 * A salt keeps the sandbox's prompts apart in the upstream's cache. Only for servers that understand the field;
 * others, e.g. hosted services, refuse unknown ones. @throws the signal's reason
 */
export async function cacheSalt(
  { catalog, sandboxId }: { readonly catalog: Catalog; readonly sandboxId: string },
  target: UpstreamTarget,
  model: string,
  signal: AbortSignal,
): Promise<{ cache_salt?: string }> {
  // Its API has no such field, whatever server it is.
  if (target.api === 'anthropic') return {};
  const list = await orAborted(catalog.models(target), signal);
  const entry = list?.find(({ id }) => id === model) ?? list?.[0];
  if (entry === undefined || !SALTED_OWNERS.has(entry.ownedBy)) return {};
  return { cache_salt: callerKey(sandboxId, 'cache') };
}
