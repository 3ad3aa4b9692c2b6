/**
 * Which requests may share an answer: those that are exactly equal, and whose model would say the same again. Pure.
 */
import { createHash } from 'node:crypto';
import type { ModelCache } from '../../../base/request/model-limits.ts';
import { isJsonObject, type JsonObject } from '../json-body.ts';

/**
 * Fields at the top that say who asks, and by which name. The rest counts as it is, also the order of keys below the top:
 * a model reads a schema in its order.
 */
const IGNORED: ReadonlySet<string> = new Set([
  'metadata',
  'model',
  'prompt_cache_key',
  'prompt_cache_retention',
  'safety_identifier',
  'store',
  'stream',
  'user',
]);

export interface ExactRequest {
  /** Name of the guest's dialect. */
  readonly dialect: string;
  readonly operation: { readonly name: string; readonly generates: boolean };
  readonly stream: boolean;
  /** Fields that pass unchecked: they change what the model server gets. */
  readonly allowFields: readonly string[];
  readonly body: JsonObject;
}

/** In hexadecimal; null: the request always goes to a model server. */
export function exactKey(request: ExactRequest, { requests }: ModelCache): string | null {
  const { dialect, operation, stream, allowFields, body } = request;
  if (hasSeveralAnswers(body) || !isExact(body)) return null;
  if (operation.generates && requests !== 'all' && !isRepeatable(body)) return null;
  const hash = createHash('sha256');
  const add = (value: unknown): void => {
    const text = JSON.stringify(value);
    // With its length, so that no two lists of texts are the same in a row.
    hash.update(`${text.length}:`).update(text);
  };
  add([dialect, operation.name, stream, [...allowFields].sort()]);
  for (const name of Object.keys(body).sort()) {
    if (IGNORED.has(name)) continue;
    add(name);
    add(body[name]);
  }
  return hash.digest('hex');
}

/** They are meant to differ. */
const hasSeveralAnswers = ({ n, best_of: best }: JsonObject): boolean =>
  [n, best].some((count) => count !== undefined && count !== null && count !== 1);

/** A call of a tool is meant to happen each time, so a request with tools is not. */
function isRepeatable(body: JsonObject): boolean {
  const { tools, functions, options } = body;
  if (isFilled(tools) || isFilled(functions)) return false;
  // Ollama has them one level below.
  return [body, isJsonObject(options) ? options : {}].some(
    ({ temperature, seed, random_seed: random }) => temperature === 0 || isSeed(seed) || isSeed(random),
  );
}

const isFilled = (value: unknown): boolean =>
  Array.isArray(value) ? value.length > 0 : value !== undefined && value !== null;

/** Servers take a negative one for none. */
const isSeed = (value: unknown): boolean => typeof value === 'number' && value >= 0;

/** False: two numbers that the model server tells apart may be equal here, since ours have 53 bits. */
function isExact(value: unknown): boolean {
  if (typeof value === 'number') {
    return Number.isSafeInteger(value) || (Number.isFinite(value) && !Number.isInteger(value));
  }
  if (Array.isArray(value)) return value.every(isExact);
  return !isJsonObject(value) || Object.values(value).every(isExact);
}
