/**
 * Notes for the log about an answer: which tools it called and, if the host's owner wants it, its text. Reads the
 * values that are parsed anyway to count tokens. Only a whole answer of OpenAI's API, which passes unparsed, is parsed
 * here, after the guest has it. Pure.
 */
import type { AnswerText } from '../content/answer-text.ts';
import { type AnswerContent, CONTENT_LIMITS } from '../content/content.ts';
import { isJsonObject, type JsonObject, parseObject } from '../json-body.ts';

export const TOOL_LIMITS = { namesMax: 16, nameCharactersMax: 64, callsMax: 1000 } as const;

/** A longer whole answer is not parsed for its tools alone. */
const DOCUMENT_BYTES_MAX = 128 * 1024;

export class AnswerNotes {
  readonly #text: AnswerText | undefined;
  readonly #tools = new Set<string>();
  /** Keys of choice and index in a stream. */
  readonly #calls = new Set<string>();
  #toolCalls = 0;
  #document: Buffer[] = [];
  #documentBytes = 0;

  /** @param text also gathers the text */
  constructor(text?: AnswerText) {
    this.#text = text;
  }

  get tools(): readonly string[] {
    return [...this.#tools];
  }

  get toolCalls(): number {
    return this.#toolCalls;
  }

  readChoice(choice: JsonObject): void {
    const { delta, message = delta, text } = choice;
    const at = numberOf(choice['index'], 0);
    this.#addText(at, text);
    if (!isJsonObject(message)) return;
    this.#addText(at, message['content']);
    this.#addText(at, message['refusal']);
    const { reasoning_content: reasoning = message['reasoning'] } = message;
    if (typeof reasoning === 'string') this.#text?.reasoning(at, reasoning);
    const { tool_calls: calls, function_call: single } = message;
    if (isJsonObject(single)) this.#readCall(at, -1, single['name'], single['arguments']);
    if (!Array.isArray(calls)) return;
    for (const [place, call] of calls.entries()) {
      if (!isJsonObject(call)) continue;
      const called = call['function'] ?? call['custom'];
      if (!isJsonObject(called)) continue;
      const part = called['arguments'] ?? called['input'];
      this.#readCall(at, numberOf(call['index'], place), called['name'], part);
    }
  }

  readBlock(index: unknown, block: unknown): void {
    if (!isJsonObject(block)) return;
    const { type, text, thinking, name, input } = block;
    this.#addText(0, text);
    if (typeof thinking === 'string') this.#text?.reasoning(0, thinking);
    if (type !== 'tool_use') return;
    // In a stream the input follows.
    const isKnown = isJsonObject(input) && Object.keys(input).length > 0;
    const part = isKnown && this.#text !== undefined ? JSON.stringify(input) : '';
    this.#readCall(0, numberOf(index, 0), name, part);
  }

  readDelta(index: unknown, { text, thinking, partial_json: json }: JsonObject): void {
    this.#addText(0, text);
    if (typeof thinking === 'string') this.#text?.reasoning(0, thinking);
    if (typeof json === 'string') this.#readCall(0, numberOf(index, 0), '', json);
  }

  skip(bytes: number): void {
    this.#text?.skip(bytes);
  }

  push(chunk: Buffer): void {
    this.#documentBytes += chunk.length;
    const bytesMax = this.#text === undefined ? DOCUMENT_BYTES_MAX : CONTENT_LIMITS.documentBytesMax;
    if (this.#documentBytes > bytesMax) this.#document = [];
    else this.#document.push(chunk);
  }

  end(): void {
    const document = Buffer.concat(this.#document);
    const unread = this.#documentBytes - document.length;
    this.#document = [];
    this.#documentBytes = 0;
    if (unread > 0) this.#text?.skip(unread);
    const hasCalls = document.includes('"tool_calls"') || document.includes('"function_call"');
    if (document.length === 0 || (this.#text === undefined && !hasCalls)) return;
    const choices = parseObject(document.toString('utf8'))?.['choices'];
    for (const choice of Array.isArray(choices) ? choices : []) {
      if (isJsonObject(choice)) this.readChoice(choice);
    }
  }

  /** Call once, after `end`. Returns `null` if there is none. */
  content(isWhole: boolean): AnswerContent | null {
    return this.#text?.content(isWhole) ?? null;
  }

  release(): void {
    this.#document = [];
    this.#text?.release();
  }

  /** @param value a text, or a list of parts of which some are texts */
  #addText(choice: number, value: unknown): void {
    if (this.#text === undefined) return;
    if (typeof value === 'string') this.#text.text(choice, value);
    for (const part of Array.isArray(value) ? value : []) {
      if (isJsonObject(part) && typeof part['text'] === 'string') this.#text.text(choice, part['text']);
    }
  }

  #readCall(choice: number, index: number, name: unknown, part: unknown): void {
    const place = `${choice} ${index}`;
    // Some servers repeat the name in each part.
    const isNew = typeof name === 'string' && name !== '' && !this.#calls.has(place);
    const given = typeof part === 'string' ? part : '';
    if (isNew || given !== '') this.#text?.call(choice, place, isNew ? name : '', given);
    if (!isNew || this.#toolCalls >= TOOL_LIMITS.callsMax) return;
    this.#calls.add(place);
    this.#toolCalls += 1;
    if (this.#tools.size >= TOOL_LIMITS.namesMax) return;
    this.#tools.add(name.slice(0, TOOL_LIMITS.nameCharactersMax).toWellFormed());
  }
}

const numberOf = (value: unknown, byDefault: number): number => (typeof value === 'number' ? value : byDefault);
