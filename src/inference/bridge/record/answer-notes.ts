/**
 * Notes for the log about an answer: which tools it called and, if the host's owner wants it, its text. Reads the
 * values that are parsed anyway to count tokens. Only a whole answer of OpenAI's API, which passes unparsed, is parsed
 * here, after the guest has it. Pure.
 */
import type { AnswerText } from '../content/answer-text.ts';
import { type AnswerContent, CONTENT_LIMITS } from '../content/content.ts';
import type { AnswerDelta, CallDelta } from '../dialect/answer-piece.ts';
import { openaiGrammar } from '../dialect/openai/answer-grammar.ts';
import { parseObject } from '../json-body.ts';

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

  add({ choice, parts }: AnswerDelta): void {
    let calls = 0;
    for (const part of parts) {
      if (part.type === 'call') this.#addCall(`${choice} ${part.index ?? calls++}`, choice, part);
      else if (part.type === 'reasoning') this.#text?.reasoning(choice, part.text);
      else if (part.type !== 'other') this.#text?.text(choice, part.text);
    }
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
    const answer = parseObject(document.toString('utf8'));
    if (answer !== undefined) for (const delta of openaiGrammar.document(answer).deltas) this.add(delta);
  }

  /** Call once, after `end`. Returns `null` if there is none. */
  content(isWhole: boolean): AnswerContent | null {
    return this.#text?.content(isWhole) ?? null;
  }

  release(): void {
    this.#document = [];
    this.#text?.release();
  }

  #addCall(place: string, choice: number, { name = '', input }: CallDelta): void {
    // Some servers repeat the name in each part.
    const isNew = name !== '' && !this.#calls.has(place);
    if (this.#text !== undefined && (isNew || input !== '')) {
      const text = typeof input === 'string' ? input : JSON.stringify(input);
      this.#text.call(choice, place, isNew ? name : '', text);
    }
    if (!isNew || this.#toolCalls >= TOOL_LIMITS.callsMax) return;
    this.#calls.add(place);
    this.#toolCalls += 1;
    if (this.#tools.size >= TOOL_LIMITS.namesMax) return;
    this.#tools.add(name.slice(0, TOOL_LIMITS.nameCharactersMax).toWellFormed());
  }
}
