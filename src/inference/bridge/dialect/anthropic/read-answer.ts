/**
 * Reads an answer of Anthropic's API, streamed or whole, into events. Each part is converted to the chat completion
 * chunk with the same meaning, whose reader keeps the order of events and the limits. Performs no I/O.
 */
import { isJsonObject, type JsonObject, parseObject } from '../../json-body.ts';
import type { AnswerReader } from '../dialect.ts';
import type { AnswerContext, AnswerEvent } from '../model.ts';
import { broken, OpenaiAnswerReader } from '../openai/read-answer.ts';
import { inputCounts, inputTokens, tokenCount } from './hide-cache-hits.ts';

/** Any other reason ends the answer as usual. */
const FINISH_REASONS: Readonly<Record<string, string>> = {
  max_tokens: 'length',
  model_context_window_exceeded: 'length',
  refusal: 'content_filter',
};

export class MessagesAnswerReader implements AnswerReader {
  readonly #chunks: OpenaiAnswerReader;
  /** Input counts. They come at the beginning, and maybe again at the end. */
  #usage: JsonObject = {};
  readonly #tools = new Set<unknown>();
  #ended = false;

  /** @param id random id of the answer */
  constructor(context: AnswerContext, id: string) {
    this.#chunks = new OpenaiAnswerReader(context, id);
  }

  /** @throws BridgeError `upstream_protocol`, `upstream_died` */
  readEvent(data: string): readonly AnswerEvent[] {
    if (this.#ended) return [];
    const event = parseObject(data);
    if (event === undefined) throw broken('an event is not a JSON object');
    const { type, message, index, content_block: block, delta, error } = event;
    if (type === 'error' || isJsonObject(error)) return this.#fail(error);
    switch (type) {
      case 'message_start':
        return this.#chunk(isJsonObject(message) ? message['usage'] : undefined, []);
      case 'content_block_start':
        return isJsonObject(block) ? this.#chunk(undefined, this.#blockStart(index, block)) : [];
      case 'content_block_delta':
        return isJsonObject(delta) ? this.#chunk(undefined, this.#delta(index, delta)) : [];
      case 'message_delta':
        return this.#chunk(event['usage'], [isJsonObject(delta) ? finishOf(delta) : {}]);
      case 'message_stop':
        return this.end();
      default:
        return [];
    }
  }

  /** @throws as `readEvent` */
  readDocument(text: string): readonly AnswerEvent[] {
    const message = parseObject(text);
    if (message === undefined) throw broken('the answer is not a JSON object');
    if (message['type'] === 'error') return this.#fail(message['error']);
    const { content, usage } = message;
    const choices = (Array.isArray(content) ? content : []).flatMap((block: unknown, index) =>
      isJsonObject(block) ? this.#blockStart(index, block) : [],
    );
    return [...this.#chunk(usage, [...choices, finishOf(message)]), ...this.end()];
  }

  end(): readonly AnswerEvent[] {
    this.#ended = true;
    return this.#chunks.end();
  }

  #fail(error: unknown): readonly AnswerEvent[] {
    this.#ended = true;
    return this.#chunks.readChunk({ error: error ?? {} });
  }

  #chunk(usage: unknown, choices: readonly JsonObject[]): readonly AnswerEvent[] {
    if (isJsonObject(usage)) {
      const given = Object.entries(usage).filter(([, value]) => value !== null);
      this.#usage = { ...this.#usage, ...Object.fromEntries(given), ...inputCounts(usage, this.#usage) };
    }
    return this.#chunks.readChunk({ usage: usageOf(this.#usage), choices });
  }

  /** In a plain answer, this is the whole block. */
  #blockStart(index: unknown, block: JsonObject): readonly JsonObject[] {
    const { type, text, thinking, id, name, input } = block;
    if (type === 'text') return [choice({ content: text })];
    if (type === 'thinking') return [choice({ reasoning_content: thinking })];
    if (type !== 'tool_use') return [];
    this.#tools.add(index);
    const isWhole = isJsonObject(input) && Object.keys(input).length > 0;
    const fn = { name, arguments: isWhole ? JSON.stringify(input) : '' };
    return [choice({ tool_calls: [{ index, id, function: fn }] })];
  }

  #delta(index: unknown, delta: JsonObject): readonly JsonObject[] {
    const { type, text, thinking, partial_json: json } = delta;
    if (type === 'text_delta') return [choice({ content: text })];
    if (type === 'thinking_delta') return [choice({ reasoning_content: thinking })];
    if (type !== 'input_json_delta' || !this.#tools.has(index)) return [];
    return [choice({ tool_calls: [{ index, function: { arguments: json } }] })];
  }
}

const choice = (delta: JsonObject): JsonObject => ({ index: 0, delta });

function finishOf({ stop_reason: reason, stop_sequence: sequence }: JsonObject): JsonObject {
  if (typeof reason !== 'string' || reason === '') return {};
  const finish = Object.hasOwn(FINISH_REASONS, reason) ? FINISH_REASONS[reason] : 'stop';
  return { index: 0, finish_reason: finish, stop_reason: sequence };
}

function usageOf(usage: JsonObject): JsonObject {
  const details = usage['output_tokens_details'];
  const thinking = isJsonObject(details) ? tokenCount(details['thinking_tokens']) : undefined;
  return {
    prompt_tokens: inputTokens(usage),
    completion_tokens: usage['output_tokens'],
    prompt_tokens_details: { cached_tokens: usage['cache_read_input_tokens'] },
    ...(thinking === undefined ? {} : { completion_tokens_details: { reasoning_tokens: thinking } }),
  };
}
