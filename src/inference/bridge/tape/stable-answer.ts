/** Removes what differs between runs from an answer: ids, times, random padding. Pure. */
import { createHash } from 'node:crypto';
import { isJsonObject, type JsonObject } from '../json-body.ts';

const ID_DIGITS = 24;
const CALL_ID_DIGITS = 12;

/** Id of the `count`th answer to the request, in hexadecimal. */
export const answerIdOf = (key: string, count: number): string => digits(`${key} ${count}`, ID_DIGITS);

const digits = (text: string, count: number): string => createHash('sha256').update(text).digest('hex').slice(0, count);

export class StableAnswer {
  readonly #answerId: string;
  /** Maps the server's id of a tool call to the stable one. */
  readonly #calls = new Map<string, string>();

  constructor(answerId: string) {
    this.#answerId = answerId;
  }

  /** @param value a document, or the data of an event */
  rewrite(value: JsonObject): JsonObject {
    const { obfuscation: _padding, ...out }: Record<string, unknown> = { ...value };
    if (typeof out['id'] === 'string') out['id'] = `chatcmpl-${this.#answerId}`;
    if (typeof out['created'] === 'number') out['created'] = 0;
    const { choices } = out;
    if (Array.isArray(choices)) out['choices'] = choices.map((choice) => this.#choice(choice));
    return out;
  }

  #choice(choice: unknown): unknown {
    if (!isJsonObject(choice)) return choice;
    const out: Record<string, unknown> = { ...choice };
    for (const name of ['message', 'delta']) {
      const part = out[name];
      if (!isJsonObject(part)) continue;
      const { tool_calls: calls } = part;
      if (!Array.isArray(calls)) continue;
      out[name] = { ...part, tool_calls: calls.map((call) => this.#call(call)) };
    }
    return out;
  }

  #call(call: unknown): unknown {
    if (!isJsonObject(call) || typeof call['id'] !== 'string' || call['id'] === '') return call;
    const known = this.#calls.get(call['id']);
    const id = known ?? `call_${digits(`${this.#answerId} ${this.#calls.size}`, CALL_ID_DIGITS)}`;
    this.#calls.set(call['id'], id);
    return { ...call, id };
  }
}
