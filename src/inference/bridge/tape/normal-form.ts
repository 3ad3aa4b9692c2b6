/**
 * The normal form of a request: equal for two requests if the same recorded answer fits both. Pure.
 *
 * - Keys are sorted.
 * - Fields that do not change the model's answer are removed: those about the caller, storage and
 *   billing.
 * - Ids of tool calls are numbered by first appearance, since servers and clients invent new ones in each run.
 */
import { createHash } from 'node:crypto';
import { isJsonObject, type JsonObject } from '../json-body.ts';

export interface TapedRequest {
  readonly dialect: string;
  readonly operation: string;
  /** Name used by the guest; `null` if there is none. */
  readonly model: string | null;
  readonly stream: boolean;
  readonly body: JsonObject;
}

/** Top-level fields that are removed. The model and `stream` are fields of the request. */
const IGNORED = new Set([
  'metadata',
  'model',
  'prompt_cache_key',
  'prompt_cache_retention',
  'safety_identifier',
  'service_tier',
  'store',
  'stream',
  'stream_options',
  'user',
]);

/** Fields that refer to a call elsewhere in the request. */
const REFERENCES = ['tool_call_id', 'tool_use_id', 'call_id'];

export function normalRequest(request: TapedRequest): TapedRequest {
  const { dialect, operation, model, stream } = request;
  const kept = Object.entries(request.body).filter(([name]) => !IGNORED.has(name));
  const body = sorted(Object.fromEntries(kept));
  const ids = new Map<string, string>();
  collectIds(body, ids);
  const numbered = ids.size === 0 ? body : withIds(body, ids);
  return { dialect, operation, model, stream, body: isJsonObject(numbered) ? numbered : {} };
}

export function requestKey(normal: TapedRequest): string {
  const { dialect, operation, model, stream, body } = normal;
  const text = JSON.stringify([dialect, operation, model, stream, body]);
  return createHash('sha256').update(text).digest('hex');
}

export function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (!isJsonObject(value)) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([name, child]) => [name, sorted(child)]));
}

function collectIds(value: unknown, ids: Map<string, string>): void {
  if (Array.isArray(value)) {
    for (const child of value) collectIds(child, ids);
    return;
  }
  if (!isJsonObject(value)) return;
  for (const [name, child] of Object.entries(value)) {
    if (typeof child !== 'string') collectIds(child, ids);
    else if (REFERENCES.includes(name) && !ids.has(child)) ids.set(child, `call-${ids.size + 1}`);
  }
}

function withIds(value: unknown, ids: ReadonlyMap<string, string>): unknown {
  if (Array.isArray(value)) return value.map((child) => withIds(child, ids));
  if (!isJsonObject(value)) return value;
  const entries = Object.entries(value).map(([name, child]) => {
    if (typeof child !== 'string') return [name, withIds(child, ids)];
    const isId = name === 'id' || REFERENCES.includes(name);
    return [name, isId ? (ids.get(child) ?? child) : child];
  });
  return Object.fromEntries(entries);
}
