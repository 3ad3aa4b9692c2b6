/**
 * Removes from an Anthropic answer what reveals hits in the prompt cache, and so what other sandboxes have asked.
 * `input_tokens` does not count cached tokens, so it becomes the sum of all. Pure.
 */
import { isJsonObject, type JsonObject } from '../../json-body.ts';
import { tokenCount } from '../read-answer-values.ts';

const CACHED = ['cache_creation_input_tokens', 'cache_read_input_tokens'];
/**
 * Members that reveal nothing about the cache. All others are dropped, since new versions of the API may add some that
 * do.
 */
const SHOWN = ['output_tokens', 'output_tokens_details', 'server_tool_use', 'service_tier', 'inference_geo', 'speed'];

/**
 * Returns the data of an event, which must be written anew even if nothing in it changed: a forwarded event has other
 * spaces, which would reveal that there was nothing to hide.
 * @param input the input tokens reported so far, including those from the cache
 * @returns undefined for an event without usage
 */
export function hideInEvent(event: JsonObject, input?: number): JsonObject | undefined {
  const { type, message } = event;
  if (type === 'message_delta') return { ...event, ...hideInAnswer(event, input) };
  if (type !== 'message_start' || !isJsonObject(message)) return undefined;
  return { ...event, message: { ...message, ...hideInAnswer(message, input) } };
}

export function hideInAnswer({ usage, diagnostics }: JsonObject, input?: number): JsonObject {
  const hidden = isJsonObject(usage) ? hideInUsage(usage, input) : null;
  return {
    ...(usage === undefined ? {} : { usage: hidden }),
    ...(diagnostics === undefined ? {} : { diagnostics: null }),
  };
}

/** Returns the same members in the same order whatever the cache had: some servers omit those that are 0. */
function hideInUsage(usage: JsonObject, told = inputTokens(usage)): JsonObject {
  return {
    ...(told === undefined ? {} : { input_tokens: told }),
    cache_creation_input_tokens: 0,
    cache_read_input_tokens: 0,
    cache_creation: null,
    ...Object.fromEntries(SHOWN.filter((name) => Object.hasOwn(usage, name)).map((name) => [name, usage[name]])),
  };
}

/**
 * The input counts of `usage`, with missing ones taken from an earlier event. Cached tokens never decrease at the
 * end of an answer: there, some servers omit them or add them to the others.
 */
export function inputCounts(usage: JsonObject, earlier: JsonObject): JsonObject {
  const names = ['input_tokens', ...CACHED];
  const told = Object.fromEntries(names.map((name) => [name, tokenCount(usage[name]) ?? earlier[name]]));
  const cached = (counts: JsonObject): number => CACHED.reduce((sum, name) => sum + (tokenCount(counts[name]) ?? 0), 0);
  const kept = cached(earlier);
  if (cached(told) > 0 || kept === 0) return told;
  const own = tokenCount(told['input_tokens']);
  const all = inputTokens(earlier);
  const isAdded = own !== undefined && all !== undefined && own >= all;
  const hits = Object.fromEntries(CACHED.map((name) => [name, earlier[name]]));
  return { input_tokens: isAdded ? own - kept : own, ...hits };
}

/** Input tokens including those from the cache; undefined if the usage has none. */
export function inputTokens(usage: JsonObject): number | undefined {
  const own = tokenCount(usage['input_tokens']);
  if (own === undefined) return undefined;
  const all = CACHED.reduce((sum, name) => sum + (tokenCount(usage[name]) ?? 0), own);
  return Math.min(all, Number.MAX_SAFE_INTEGER);
}
