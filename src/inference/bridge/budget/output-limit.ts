/** The answer limit in tokens that a request of the OpenAI API sets. Pure. */
import type { JsonObject } from '../json-body.ts';

export interface OutputLimit {
  /** Limit of each answer; `null` if the request has none, or one that servers may ignore. */
  readonly tokens: number | null;
  readonly answers: number;
  readonly fields: readonly string[];
}

/** Limit of each answer if a budget applies and the request sets no limit. */
export const DEFAULT_OUTPUT_TOKENS = 16_384;
/** Assumed length of an answer until it arrives: about one step of an agent. */
export const EXPECTED_OUTPUT_TOKENS = 256;
/** If several are set, servers differ in which one wins. */
const FIELDS = ['max_tokens', 'max_completion_tokens', 'n_predict'];
/** Each server knows at least one of these. */
const STANDARD_FIELDS = FIELDS.slice(0, 2);

export function outputLimitOf(body: JsonObject): OutputLimit {
  const fields = FIELDS.filter((name) => body[name] !== undefined && body[name] !== null);
  const values = fields.map((name) => body[name]);
  const isClear = values.length > 0 && values.every((value) => Number.isSafeInteger(value) && Number(value) > 0);
  const tokens = isClear ? Math.max(...values.map(Number)) : null;
  const copies = Math.max(1, count(body['n']), count(body['best_of']));
  return { tokens, answers: copies * prompts(body['prompt']), fields };
}

/** Members of the body that limit each answer to `tokens`. */
export function outputEdits({ fields }: OutputLimit, tokens: number): Record<string, number> {
  const isKnown = fields.some((name) => STANDARD_FIELDS.includes(name));
  const all = isKnown ? fields : ['max_tokens', ...fields];
  return Object.fromEntries(all.map((name) => [name, tokens]));
}

const count = (value: unknown): number => (Number.isSafeInteger(value) ? Number(value) : 0);

/** A list of numbers is one prompt as tokens. */
function prompts(prompt: unknown): number {
  if (!Array.isArray(prompt) || prompt.length === 0 || typeof prompt[0] === 'number') return 1;
  return prompt.length;
}
