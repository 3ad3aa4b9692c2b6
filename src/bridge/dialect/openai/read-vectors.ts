/**
 * Reads an answer with embeddings into events. Numbers are not parsed: a batch has hundreds of thousands, and their digits
 * pass unchanged. Performs no I/O.
 */
import { isJsonObject, parseObject } from '../../json-body.ts';
import type { AnswerReader } from '../dialect.ts';
import type { AnswerContext, AnswerEvent } from '../model.ts';
import { broken, errorMessage, usageOf } from './read-answer.ts';

/** Inside a JSON string the quotes would be escaped, so any match is a key. */
const VECTOR = /"embedding"\s*:\s*(\[[-+0-9.eE,\s]*\])/g;

export class OpenaiVectorReader implements AnswerReader {
  readonly #context: AnswerContext;

  constructor(context: AnswerContext) {
    this.#context = context;
  }

  readEvent(): never {
    throw broken('embeddings came as a stream');
  }

  end(): never {
    throw broken('embeddings came as a stream');
  }

  readDocument(text: string): readonly AnswerEvent[] {
    const lists: string[] = [];
    // The numbers' places, so that what is left is small and tells which input each belongs to.
    const rest = text.replace(VECTOR, (_, numbers: string) => {
      lists.push(numbers);
      return `"embedding":${lists.length - 1}`;
    });
    const value = parseObject(rest);
    if (value === undefined) throw broken('the answer is not a JSON object');
    const { error, data } = value;
    if (error !== undefined && error !== null) {
      return [{ type: 'error', message: errorMessage(error) }];
    }
    const vectors = new Map<number, string>();
    for (const [i, item] of (Array.isArray(data) ? data : []).entries()) {
      const { embedding, index = i } = isJsonObject(item) ? item : {};
      const numbers = typeof embedding === 'number' ? lists[embedding] : undefined;
      if (numbers === undefined || !/\d/.test(numbers)) throw broken('an embedding has no numbers');
      if (typeof index !== 'number' || vectors.has(index)) throw broken('an index occurs twice');
      vectors.set(index, numbers);
    }
    // Every index from 0 on, if there are as many as inputs.
    const ordered = [...vectors.keys()].map((_, i) => vectors.get(i));
    if (ordered.length !== this.#context.vectors || ordered.includes(undefined)) {
      throw broken('there is not one embedding for each input');
    }
    const used = value['usage'];
    // Some servers leave out what embeddings don't have.
    const usage = isJsonObject(used) ? usageOf({ completion_tokens: 0, ...used }) : undefined;
    return [
      { type: 'start' },
      { type: 'vectors', lists: ordered.map((numbers) => numbers ?? '') },
      ...(usage === undefined ? [] : [{ type: 'usage' as const, usage }]),
      { type: 'stop', reason: 'end', sequence: null },
    ];
  }
}
