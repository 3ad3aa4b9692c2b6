/**
 * What the log says of an answer: which tools it called. Read from the values that are parsed anyway to count tokens; only a
 * whole answer of OpenAI's API, which passes unparsed, is parsed here, after the guest has it. Pure.
 */
import { isJsonObject, type JsonObject, parseObject } from '../json-body.ts';

export const TOOL_LIMITS = {
  /** Different names. */
  namesMax: 16,
  nameCharactersMax: 64,
  callsMax: 1000,
} as const;

/** A longer whole answer is not read again. */
const DOCUMENT_BYTES_MAX = 128 * 1024;

export class AnswerNotes {
  readonly #tools = new Set<string>();
  /** Of a stream: choice and index. */
  readonly #calls = new Set<string>();
  #toolCalls = 0;
  #document: Buffer[] = [];
  #documentBytes = 0;

  get tools(): readonly string[] {
    return [...this.#tools];
  }

  get toolCalls(): number {
    return this.#toolCalls;
  }

  /** A choice of OpenAI's API, of a stream or of a whole answer. */
  readChoice(choice: JsonObject): void {
    const { delta, message = delta } = choice;
    if (!isJsonObject(message)) return;
    const { tool_calls: calls, function_call: single } = message;
    if (isJsonObject(single)) this.#readCall(`${choice['index']} -`, single['name']);
    if (!Array.isArray(calls)) return;
    for (const [place, call] of calls.entries()) {
      if (!isJsonObject(call)) continue;
      const { index = place, function: called, custom = called } = call;
      if (isJsonObject(custom)) this.#readCall(`${choice['index']} ${index}`, custom['name']);
    }
  }

  /** A block of an answer of Anthropic's API, whole or as it begins in a stream. */
  readBlock(index: unknown, block: unknown): void {
    if (!isJsonObject(block)) return;
    if (block['type'] === 'tool_use') this.#readCall(`${index}`, block['name']);
  }

  /** A part of a whole answer of OpenAI's API. */
  push(chunk: Buffer): void {
    this.#documentBytes += chunk.length;
    if (this.#documentBytes > DOCUMENT_BYTES_MAX) this.#document = [];
    else this.#document.push(chunk);
  }

  /** There is no more of the answer. Idempotent. */
  end(): void {
    const document = Buffer.concat(this.#document);
    this.#document = [];
    if (!document.includes('"tool_calls"') && !document.includes('"function_call"')) return;
    const choices = parseObject(document.toString('utf8'))?.['choices'];
    for (const choice of Array.isArray(choices) ? choices : []) {
      if (isJsonObject(choice)) this.readChoice(choice);
    }
  }

  #readCall(place: string, name: unknown): void {
    if (typeof name !== 'string' || name === '' || this.#toolCalls >= TOOL_LIMITS.callsMax) return;
    // Some servers repeat the name in each part.
    if (this.#calls.has(place)) return;
    this.#calls.add(place);
    this.#toolCalls += 1;
    if (this.#tools.size >= TOOL_LIMITS.namesMax) return;
    this.#tools.add(name.slice(0, TOOL_LIMITS.nameCharactersMax).toWellFormed());
  }
}
