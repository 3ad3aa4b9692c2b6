import { orAborted } from '../../../base/time-limit.ts';
import type { OutputLimit } from '../budget/output-limit.ts';
import { callerKey } from '../caller-key.ts';
import type { ModelEntry } from '../policy.ts';
import type { UpstreamTarget } from './address.ts';
import type { Catalog } from './catalog.ts';

/** `owned_by` in the model lists of servers that understand `cache_salt`. */
const SALTED_OWNERS = new Set(['vllm', 'sglang', 'neurovisor']);

interface Limited {
  readonly output: OutputLimit | null;
  readonly cut: Readonly<Record<string, number>>;
}

/**
 * Members of a request that only some servers need or understand, as their model lists show; hosted services refuse
 * unknown members. @throws the signal's reason
 */
export async function serverMembers(
  { catalog, sandboxId }: { readonly catalog: Catalog; readonly sandboxId: string },
  target: UpstreamTarget,
  model: string,
  limited: Limited,
  signal: AbortSignal,
): Promise<{ readonly cache_salt?: string; readonly max_tokens?: number }> {
  // Anthropic's API has no such fields, whatever the server.
  if (target.api === 'anthropic') return {};
  const list = await orAborted(catalog.models(target), signal);
  const entry = list?.find(({ id }) => id === model) ?? list?.[0];
  if (entry === undefined) return {};
  // The salt separates the sandbox's prompts in the cache.
  if (SALTED_OWNERS.has(entry.ownedBy)) return { cache_salt: callerKey(sandboxId, 'cache') };
  return isOllama(entry) ? oldLimit(limited) : {};
}

/** Ollama lists each model with its tag, and derives the owner from the name. */
export function isOllama({ id, ownedBy }: Pick<ModelEntry, 'id' | 'ownedBy'>): boolean {
  const [name = '', namespace = 'library'] = id.split('/').reverse();
  return /^[^:]+:[^:]+$/.test(name) && namespace === ownedBy;
}

/** Ollama ignores `max_completion_tokens`, even if it is the rest of a budget. */
function oldLimit({ output, cut }: Limited): { readonly max_tokens?: number } {
  const fields = output?.fields ?? [];
  if (output === null || fields.includes('max_tokens')) return {};
  if (!fields.includes('max_completion_tokens')) return {};
  const tokens = cut['max_completion_tokens'] ?? output.tokens;
  return tokens === null ? {} : { max_tokens: tokens };
}
