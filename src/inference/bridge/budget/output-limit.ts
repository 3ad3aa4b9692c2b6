/** The most tokens that a model may answer, in a request of the OpenAI API. Pure. */
import type { JsonObject } from '../json-body.ts';

export interface OutputLimit {
  /** Limit of each answer; null: the request has none, or one that servers may ignore. */
  readonly tokens: number | null;
  /** Answers to the request. */
  readonly answers: number;
  /** Fields that give a limit, whatever it is. */
  readonly fields: readonly string[];
}

/** Limit of each answer if there is a budget and the request names no limit. */
export const DEFAULT_OUTPUT_TOKENS = 16_384;
/** Assumed of an answer until it comes: about one step of an agent. */
export const EXPECTED_OUTPUT_TOKENS = 256;
/** Servers differ in which one wins. */
const FIELDS = ['max_tokens', 'max_completion_tokens', 'n_predict'];
/** Each server knows at least one of them. */
const STANDARD_FIELDS = FIELDS.slice(0, 2);

export function outputLimitOf(body: JsonObject): OutputLimit {
  const fields = FIELDS.filter((name) => body[name] !== undefined && body[name] !== null);
  const values = fields.map((name) => body[name]);
  const isClear = values.length > 0 && values.every((value) => Number.isSafeInteger(value) && Number(value) > 0);
  const tokens = isClear ? Math.max(...values.map(Number)) : null;
  const copies = Math.max(1, count(body['n']), count(body['best_of']));
  return { tokens, answers: copies * prompts(body['prompt']), fields };
}

/** Members of the body that limit each answer to this. */
export function outputEdits({ fields }: OutputLimit, tokens: number): Record<string, number> {
  const isKnown = fields.some((name) => STANDARD_FIELDS.includes(name));
  const all = isKnown ? fields : ['max_tokens', ...fields];
  return Object.fromEntries(all.map((name) => [name, tokens]));
}

const count = (value: unknown): number => (Number.isSafeInteger(value) ? Number(value) : 0);

/** A list of numbers is the tokens of one prompt. */
function prompts(prompt: unknown): number {
  if (!Array.isArray(prompt) || prompt.length === 0 || typeof prompt[0] === 'number') return 1;
  return prompt.length;
}
