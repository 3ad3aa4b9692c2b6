/**
 * Decides which requests may share an answer: those that are exactly equal, and whose model would answer the same
 * again. Pure.
 */
import { createHash } from 'node:crypto';
import type { ModelCache } from '../../../base/request/model-limits.ts';
import { isJsonObject, type JsonObject } from '../json-body.ts';

/**
 * Top-level fields that identify the caller, or name the model. All others count unchanged, including the order of
 * nested keys: a model reads a schema in its order.
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
  readonly dialect: string;
  readonly operation: { readonly name: string; readonly generates: boolean };
  readonly stream: boolean;
  /** Fields that pass unchecked: they change what the model server gets. */
  readonly allowFields: readonly string[];
  readonly body: JsonObject;
}

/** The key in hexadecimal; `null` if the request must always reach a model server. */
export function exactKey(request: ExactRequest, { requests }: ModelCache): string | null {
  const { dialect, operation, stream, allowFields, body } = request;
  if (hasSeveralAnswers(body) || !isExact(body)) return null;
  if (operation.generates && requests !== 'all' && !isRepeatable(body)) return null;
  const hash = createHash('sha256');
  const add = (value: unknown): void => {
    const text = JSON.stringify(value);
    // Prefixed with its length, so that no two lists of texts give the same sequence.
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

/** Several answers to a request are meant to differ. */
const hasSeveralAnswers = ({ n, best_of: best }: JsonObject): boolean =>
  [n, best].some((count) => count !== undefined && count !== null && count !== 1);

/** A tool is meant to be called each time, so a request with tools is not repeatable. */
function isRepeatable(body: JsonObject): boolean {
  const { tools, functions, options } = body;
  if (isFilled(tools) || isFilled(functions)) return false;
  // Ollama nests them one level deeper.
  return [body, isJsonObject(options) ? options : {}].some(
    ({ temperature, seed, random_seed: random }) => temperature === 0 || isSeed(seed) || isSeed(random),
  );
}

const isFilled = (value: unknown): boolean =>
  Array.isArray(value) ? value.length > 0 : value !== undefined && value !== null;

/** Servers treat a negative seed as none. */
const isSeed = (value: unknown): boolean => typeof value === 'number' && value >= 0;

/** False if a number has more than the 53 bits kept here: the server may distinguish two that look equal. */
function isExact(value: unknown): boolean {
  if (typeof value === 'number') {
    return Number.isSafeInteger(value) || (Number.isFinite(value) && !Number.isInteger(value));
  }
  if (Array.isArray(value)) return value.every(isExact);
  return !isJsonObject(value) || Object.values(value).every(isExact);
}
