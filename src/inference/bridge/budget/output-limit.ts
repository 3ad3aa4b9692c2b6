/** The number of answers and their limit in tokens that a request of the OpenAI API sets. Pure. */
import type { Checked } from '../../../base/http/refusal.ts';
import { checkedRead, optionalLimit } from '../dialect/read-values.ts';
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
/** Each server knows at least one of these. */
const STANDARD_FIELDS = ['max_tokens', 'max_completion_tokens'];
/** If several are set, servers differ in which one wins. */
const FIELDS = [...STANDARD_FIELDS, 'n_predict'];
const COPIES = ['n', 'best_of'];

/**
 * Refuses a number that a budget would read otherwise than the server, also if the sandbox's owner allowed the field:
 * many servers take `"128"` for 128.
 */
export function checkOutputNumbers(body: JsonObject): Checked<void> {
  return checkedRead(() => {
    for (const name of COPIES) optionalLimit(body[name], name);
    for (const name of STANDARD_FIELDS) optionalLimit(body[name], name, 0);
    // To llama.cpp -1 and -2 mean no limit.
    optionalLimit(body['n_predict'], 'n_predict', -2);
  });
}

/** @param body whose numbers were checked */
export function outputLimitOf(body: JsonObject): OutputLimit {
  const fields = FIELDS.filter((name) => body[name] !== undefined && body[name] !== null);
  const values = fields.map((name) => Number(body[name]));
  const isClear = values.length > 0 && values.every((value) => value > 0);
  const tokens = isClear ? Math.max(...values) : null;
  const copies = Math.max(...COPIES.map((name) => Number(body[name] ?? 1)));
  return { tokens, answers: copies * prompts(body['prompt']), fields };
}

/** Members of the body that limit each answer to `tokens`. */
export function outputEdits({ fields }: OutputLimit, tokens: number): Record<string, number> {
  const isKnown = fields.some((name) => STANDARD_FIELDS.includes(name));
  const all = isKnown ? fields : ['max_tokens', ...fields];
  return Object.fromEntries(all.map((name) => [name, tokens]));
}

/** A list of numbers is one prompt as tokens. */
function prompts(prompt: unknown): number {
  if (!Array.isArray(prompt) || prompt.length === 0 || typeof prompt[0] === 'number') return 1;
  return prompt.length;
}
