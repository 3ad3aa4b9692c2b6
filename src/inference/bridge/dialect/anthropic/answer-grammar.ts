/** Reads the answers of Anthropic's API, streamed or whole. Keeps the counts of earlier events. Performs no I/O. */
import { isJsonObject, type JsonObject, parseObject } from '../../json-body.ts';
import type {
  AnswerDelta,
  AnswerGrammar,
  AnswerPiece,
  CallDelta,
  DeltaPart,
  Finish,
  UsageReport,
} from '../answer-piece.ts';
import { isText, textIn, tokenCount } from '../read-answer-values.ts';
import { TOOL_CALLS_MAX } from '../tool-calls.ts';
import { inputCounts, inputTokens } from './hide-cache-hits.ts';

/** Any other reason ends the answer as usual. */
const FINISHES: ReadonlyMap<string, Finish> = new Map([
  ['max_tokens', 'length'],
  ['model_context_window_exceeded', 'length'],
  ['refusal', 'refusal'],
]);

export class MessageGrammar implements AnswerGrammar {
  /** Input counts. They come at the beginning, and maybe again at the end. */
  #inputs: JsonObject = {};
  #output: number | undefined;
  #reasoning: number | undefined;
  #isEarly = true;
  /** Indexes of the blocks that are tool calls. The arguments of a server's own tools are none. */
  readonly #tools = new Set<unknown>();

  /** Input tokens so far, including those from the cache; undefined if none were reported. */
  get input(): number | undefined {
    return inputTokens(this.#inputs);
  }

  event(data: string): AnswerPiece | undefined {
    const event = parseObject(data);
    return event === undefined ? undefined : this.parsedEvent(event);
  }

  parsedEvent(event: JsonObject): AnswerPiece {
    const { type, message, index, content_block: block, delta, error } = event;
    if (type === 'error' || isJsonObject(error)) return { deltas: [], error: errorOf(error) };
    switch (type) {
      case 'message_start':
        return this.#piece([], isJsonObject(message) ? message['usage'] : undefined, false);
      case 'content_block_start':
        return this.#piece(isJsonObject(block) ? [this.#block(index, block)] : []);
      case 'content_block_delta':
        return this.#piece(isJsonObject(delta) ? [{ choice: 0, parts: this.#parts(index, delta) }] : []);
      case 'message_delta':
        return this.#piece(isJsonObject(delta) ? [finishOf(delta)] : [], event['usage']);
      default:
        return type === 'message_stop' ? { deltas: [], isEnd: true } : { deltas: [] };
    }
  }

  document(message: JsonObject): AnswerPiece {
    const { type, content, usage, error } = message;
    if (type === 'error') return { deltas: [], error: errorOf(error) };
    const blocks: readonly unknown[] = Array.isArray(content) ? content : [];
    const deltas = blocks.flatMap((block, index) => (isJsonObject(block) ? [this.#block(index, block)] : []));
    return this.#piece([...deltas, finishOf(message)], usage);
  }

  #piece(deltas: readonly AnswerDelta[], usage?: unknown, isFinal = true): AnswerPiece {
    return isJsonObject(usage) ? { deltas, usage: this.#report(usage, isFinal) } : { deltas };
  }

  /** Counts cover the whole answer so far; those of the first event do not include its text. */
  #report(usage: JsonObject, isFinal: boolean): UsageReport {
    this.#inputs = inputCounts(usage, this.#inputs);
    const output = tokenCount(usage['output_tokens']);
    if (isFinal && output !== undefined) this.#isEarly = false;
    this.#output = output ?? this.#output;
    const details = usage['output_tokens_details'];
    this.#reasoning = (isJsonObject(details) ? tokenCount(details['thinking_tokens']) : undefined) ?? this.#reasoning;
    return {
      input: this.input,
      cached: tokenCount(this.#inputs['cache_read_input_tokens']) ?? 0,
      output: this.#output,
      reasoning: this.#reasoning,
      isEarly: this.#isEarly,
    };
  }

  /** In a plain answer, this is the whole block. */
  #block(index: unknown, block: JsonObject): AnswerDelta {
    const { type, text, thinking, id, name, input } = block;
    const isTool = type === 'tool_use';
    if (isTool && this.#tools.size < TOOL_CALLS_MAX) this.#tools.add(index);
    const isWhole = isJsonObject(input) && Object.keys(input).length > 0;
    const call: CallDelta = {
      type: 'call',
      index: numberOf(index),
      id: isText(id) ? id : undefined,
      name: isText(name) ? name : undefined,
      // In a stream the input follows.
      input: isWhole ? input : '',
    };
    const textual = type === 'text' ? textIn('text', text) : type === 'thinking' ? textIn('reasoning', thinking) : [];
    return { choice: 0, parts: isTool ? [call] : textual };
  }

  /** What does not belong to the type of the delta is `other`. */
  #parts(index: unknown, delta: JsonObject): readonly DeltaPart[] {
    const { type, text, thinking, partial_json: json } = delta;
    const isCall = type === 'input_json_delta' && this.#tools.has(index) && isText(json);
    return [
      ...textIn(type === 'text_delta' ? 'text' : 'other', text),
      ...textIn(type === 'thinking_delta' ? 'reasoning' : 'other', thinking),
      ...(isCall
        ? [{ type: 'call' as const, index: numberOf(index), id: undefined, name: undefined, input: json }]
        : textIn('other', json)),
    ];
  }
}

const errorOf = (error: unknown): unknown => (isJsonObject(error) || isText(error) ? error : {});
const numberOf = (index: unknown): number | undefined => (Number.isSafeInteger(index) ? Number(index) : undefined);

function finishOf({ stop_reason: reason, stop_sequence: sequence }: JsonObject): AnswerDelta {
  if (!isText(reason)) return { choice: 0, parts: [] };
  return { choice: 0, parts: [], finish: FINISHES.get(reason) ?? 'end', sequence };
}
