/**
 * Reads an answer with embeddings into events as it arrives. A batch has millions of numbers, so they are neither kept
 * nor parsed: the lists are cut out of the text, and the small rest says which input each belongs to. Performs no I/O.
 */
import { StringDecoder } from 'node:string_decoder';
import { broken } from '../../errors.ts';
import { isJsonObject, parseObject } from '../../json-body.ts';
import { answerUsage } from '../answer-events.ts';
import type { AnswerReader } from '../dialect.ts';
import type { AnswerContext, AnswerEvent } from '../model.ts';
import { errorMessage } from '../read-answer-values.ts';
import { usageReport } from './answer-grammar.ts';

/** Inside a JSON string the quotes would be escaped, so any match is a key. */
const START = /"embedding"\s*:\s*\[/g;
const NO_NUMBER = /[^-+0-9.eE,\s]/g;
/** Longer than any `START` that a server writes; the next chunk may complete one. */
const TAIL_CHARACTERS = 128;
/** Limit of the answer without the lists. */
const REST_CHARACTERS_MAX = 8 * 1024 * 1024;

export class OpenaiVectorReader implements AnswerReader {
  readonly #context: AnswerContext;
  readonly #decoder = new StringDecoder('utf8');
  readonly #rest: string[] = [];
  #restCharacters = 0;
  #tail = '';
  #inList = false;
  #hasNumber = false;
  #lists = 0;

  constructor(context: AnswerContext) {
    this.#context = context;
  }

  readEvent(): never {
    throw broken('embeddings came as a stream');
  }

  readDocument(text: string): readonly AnswerEvent[] {
    return [...this.readPart(Buffer.from(text)), ...this.end()];
  }

  readPart(bytes: Buffer): readonly AnswerEvent[] {
    const text = this.#tail + this.#decoder.write(bytes);
    const start: AnswerEvent[] = this.#lists === 0 ? [{ type: 'start' }] : [];
    let numbers = '';
    let at = 0;
    this.#tail = '';
    while (at < text.length) {
      if (this.#inList) {
        const end = indexOf(NO_NUMBER, text, at);
        const list = text.slice(at, end);
        this.#hasNumber ||= /\d/.test(list);
        numbers += list;
        at = end;
        if (at === text.length) break;
        if (text[at] !== ']' || !this.#hasNumber) throw broken('an embedding is no list of numbers');
        numbers += ']';
        at += 1;
        this.#inList = false;
      } else {
        const key = indexOf(START, text, at);
        const found = key < text.length;
        const end = found ? START.lastIndex - 1 : Math.max(at, text.length - TAIL_CHARACTERS);
        this.#keep(text.slice(at, end));
        if (!found) {
          this.#tail = text.slice(end);
          break;
        }
        this.#keep(String(this.#lists));
        numbers += this.#lists === 0 ? '[' : ',[';
        this.#lists += 1;
        this.#inList = true;
        this.#hasNumber = false;
        at = end + 1;
      }
    }
    if (numbers === '') return [];
    return [...start, { type: 'vectors', text: numbers }];
  }

  end(): readonly AnswerEvent[] {
    this.#keep(this.#tail + this.#decoder.end());
    const value = parseObject(this.#rest.join(''));
    if (value === undefined || this.#inList) throw broken('the answer is not a JSON object');
    const { error, data } = value;
    if (error !== undefined && error !== null) {
      return [{ type: 'error', message: errorMessage(error) }];
    }
    const items = Array.isArray(data) ? data : [];
    const isInOrder = items.every((item, i) => {
      const { embedding, index = i } = isJsonObject(item) ? item : {};
      return embedding === i && index === i;
    });
    const { vectors } = this.#context;
    if (!isInOrder || items.length !== vectors || this.#lists !== vectors) {
      throw broken('there is not one embedding for each input, in their order');
    }
    const used = value['usage'];
    // Some servers omit counts that embeddings don't have.
    const usage = isJsonObject(used) ? answerUsage(usageReport({ completion_tokens: 0, ...used })) : undefined;
    return [
      ...(usage === undefined ? [] : [{ type: 'usage' as const, usage }]),
      { type: 'stop', reason: 'end', sequence: null },
    ];
  }

  #keep(text: string): void {
    this.#restCharacters += text.length;
    if (this.#restCharacters > REST_CHARACTERS_MAX) throw broken('the answer is too long');
    if (text !== '') this.#rest.push(text);
  }
}

/** Returns the text's length if there is no match. Sets `lastIndex` to the end of the match. */
function indexOf(pattern: RegExp, text: string, from: number): number {
  pattern.lastIndex = from;
  return pattern.exec(text)?.index ?? text.length;
}
