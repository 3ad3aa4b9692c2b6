/**
 * Takes from an answer of Anthropic's API what tells hits in the prompt cache, and so what other sandboxes have asked.
 * `input_tokens` does not count tokens from the cache, so it becomes the sum of all. Pure.
 */
import { isJsonObject, type JsonObject } from '../../json-body.ts';

const CACHED = ['cache_creation_input_tokens', 'cache_read_input_tokens'];
/** What tells nothing of the cache. Other members are dropped, since new versions of the API may add some that do. */
const SHOWN: ReadonlySet<string> = new Set([
  'output_tokens',
  'output_tokens_details',
  'server_tool_use',
  'service_tier',
  'inference_geo',
  'speed',
]);

/** The data of an event. Undefined: it tells nothing. */
export function hideInEvent(event: JsonObject): JsonObject | undefined {
  const { type, message } = event;
  if (type === 'message_delta') return withMembers(event, hideInAnswer(event));
  if (type !== 'message_start' || !isJsonObject(message)) return undefined;
  const hidden = withMembers(message, hideInAnswer(message));
  return hidden === undefined ? undefined : { ...event, message: hidden };
}

/** The members of a message, or of another object with usage, that must be replaced. */
export function hideInAnswer({ usage, diagnostics }: JsonObject): JsonObject {
  const hidden = isJsonObject(usage) ? hideInUsage(usage) : usage;
  return {
    ...(JSON.stringify(hidden) === JSON.stringify(usage) ? {} : { usage: hidden }),
    ...(diagnostics === undefined || diagnostics === null ? {} : { diagnostics: null }),
  };
}

function withMembers(value: JsonObject, members: JsonObject): JsonObject | undefined {
  return Object.keys(members).length === 0 ? undefined : { ...value, ...members };
}

function hideInUsage(usage: JsonObject): JsonObject {
  const shown = Object.entries(usage).flatMap(([name, value]): [string, unknown][] => {
    if (name === 'input_tokens') return [[name, inputTokens(usage) ?? value]];
    if (CACHED.includes(name)) return [[name, typeof value === 'number' ? 0 : null]];
    if (name === 'cache_creation') return [[name, isJsonObject(value) ? zeros(value) : null]];
    return SHOWN.has(name) ? [[name, value]] : [];
  });
  return Object.fromEntries(shown);
}

const zeros = (counts: JsonObject): JsonObject =>
  Object.fromEntries(Object.keys(counts).map((name) => [name, 0]));

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
