/**
 * Takes from an answer of Anthropic's API what tells hits in the prompt cache, and so what other sandboxes have asked.
 * `input_tokens` does not count tokens from the cache, so it becomes the sum of all. Pure.
 */
import { isJsonObject, type JsonObject } from '../../json-body.ts';

const CACHED = ['cache_creation_input_tokens', 'cache_read_input_tokens'];
/** What tells nothing of the cache. Other members are dropped, since new versions of the API may add some that do. */
const SHOWN = ['output_tokens', 'output_tokens_details', 'server_tool_use', 'service_tier', 'inference_geo', 'speed'];

/**
 * The data of an event, which must be written anew even if nothing in it has changed: what is forwarded as it came
 * has other spaces, and would tell that there was nothing to hide.
 * @param input the input tokens that the answer has told so far, with those from the cache
 * @returns undefined: an event without usage
 */
export function hideInEvent(event: JsonObject, input?: number): JsonObject | undefined {
  const { type, message } = event;
  if (type === 'message_delta') return { ...event, ...hideInAnswer(event, input) };
  if (type !== 'message_start' || !isJsonObject(message)) return undefined;
  return { ...event, message: { ...message, ...hideInAnswer(message, input) } };
}

/** The members of a message, or of another object with usage, that must be replaced. */
export function hideInAnswer({ usage, diagnostics }: JsonObject, input?: number): JsonObject {
  const hidden = isJsonObject(usage) ? hideInUsage(usage, input) : null;
  return {
    ...(usage === undefined ? {} : { usage: hidden }),
    ...(diagnostics === undefined ? {} : { diagnostics: null }),
  };
}

/** Has the same members in the same order whatever the cache had: some servers leave out what is 0. */
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
 * The counts of input in `usage`; where it has none, those of an earlier event. The end of an answer takes no token from
 * the cache back: some servers count none of those there, and add them to the others, or leave them out.
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

/** With those from the cache. Undefined: the usage does not tell. */
export function inputTokens(usage: JsonObject): number | undefined {
  const own = tokenCount(usage['input_tokens']);
  if (own === undefined) return undefined;
  const all = CACHED.reduce((sum, name) => sum + (tokenCount(usage[name]) ?? 0), own);
  return Math.min(all, Number.MAX_SAFE_INTEGER);
}

export function tokenCount(value: unknown): number | undefined {
  return Number.isSafeInteger(value) && Number(value) >= 0 ? Number(value) : undefined;
}
