/**
 * Reads an answer of chat completions, streamed or whole, into events. Whatever an upstream sends, the events are in
 * the order that `model.ts` promises, or an error is thrown. Performs no I/O.
 */
import { BridgeError } from '../../errors.ts';
import { isJsonObject, type JsonObject, parseObject } from '../../json-body.ts';
import type { AnswerReader } from '../dialect.ts';
import type { AnswerContext, AnswerEvent, AnswerUsage, StopReason } from '../model.ts';
import { ToolCallReader } from './read-tool-calls.ts';

export class OpenaiAnswerReader implements AnswerReader {
  readonly #context: AnswerContext;
  readonly #tools: ToolCallReader;
  readonly #text: TextJoiner;
  #events: AnswerEvent[] = [];
  #started = false;
  #finish: string | undefined;
  #matched: unknown;
  #refused = false;
  #usage: AnswerUsage | undefined;
  #ended = false;

  constructor(context: AnswerContext, id: string) {
    this.#context = context;
    this.#text = new TextJoiner((event) => this.#events.push(event));
    this.#tools = new ToolCallReader((event) => this.#events.push(event), id);
  }

  /** @param data data of the next event @throws BridgeError `upstream_protocol` */
  readEvent(data: string): readonly AnswerEvent[] {
    if (this.#ended) return [];
    if (data.trim() === '[DONE]') return this.end();
    const value = parseObject(data);
    if (value === undefined) throw broken('an event is not a JSON object');
    return this.#read(value);
  }

  /** Reads a chunk, or a whole answer without its end. @throws BridgeError `upstream_protocol` */
  readChunk(value: JsonObject): readonly AnswerEvent[] {
    return this.#ended ? [] : this.#read(value);
  }

  /** Reads a whole answer. @throws BridgeError `upstream_protocol`, `upstream_died` */
  readDocument(text: string): readonly AnswerEvent[] {
    const value = parseObject(text);
    if (value === undefined) throw broken('the answer is not a JSON object');
    const events = this.#read(value);
    return this.#ended ? events : [...events, ...this.end()];
  }

  /**
   * Call when the upstream has sent everything.
   * @throws BridgeError `upstream_died` if it did not mark the answer as complete; `upstream_protocol`
   */
  end(): readonly AnswerEvent[] {
    if (this.#ended) return [];
    const finish = this.#finish;
    if (finish === undefined) {
      throw new BridgeError('upstream_died', 'the answer ended without a finish reason');
    }
    this.#ended = true;
    if (FAILED.has(finish)) {
      this.#events.push({ type: 'error', message: 'The model server stopped before the end.' });
      return this.#take();
    }
    this.#text.end();
    this.#tools.end(REASONS[finish] === 'length');
    if (this.#usage !== undefined) this.#events.push({ type: 'usage', usage: this.#usage });
    this.#events.push({ type: 'stop', ...this.#stop(finish) });
    return this.#take();
  }

  #read(value: JsonObject): readonly AnswerEvent[] {
    const { error, choices } = value;
    if (error !== undefined && error !== null) {
      this.#ended = true;
      this.#events.push({ type: 'error', message: errorMessage(error) });
      return this.#take();
    }
    if (!this.#started) this.#events.push({ type: 'start' });
    this.#started = true;
    this.#usage = usageOf(value['usage']) ?? this.#usage;
    if (Array.isArray(choices)) for (const choice of choices) this.#readChoice(choice);
    return this.#take();
  }

  #readChoice(choice: unknown): void {
    // The request asks for one choice.
    if (!isJsonObject(choice) || (choice['index'] ?? 0) !== 0) return;
    const delta = choice['delta'] ?? choice['message'];
    if (isJsonObject(delta)) this.#readDelta(delta);
    const finish = choice['finish_reason'];
    if (isText(finish)) this.#finish = finish;
    // vLLM; SGLang
    this.#matched = choice['stop_reason'] ?? choice['matched_stop'] ?? this.#matched;
  }

  #readDelta(delta: JsonObject): void {
    const { content, refusal, tool_calls: calls, function_call: call } = delta;
    const reasoning = [delta['reasoning_content'], delta['reasoning']].find(isText);
    if (reasoning !== undefined) this.#add('reasoning', reasoning);
    if (isText(content)) this.#add('text', content);
    else if (Array.isArray(content)) for (const part of content) this.#readPart(part);
    if (isText(refusal)) {
      this.#refused = true;
      this.#add('text', refusal);
    }
    const all = Array.isArray(calls) ? calls : [];
    const old = isJsonObject(call) ? [{ index: 0, function: call }] : [];
    for (const one of [...all, ...old]) {
      if (!isJsonObject(one)) continue;
      this.#text.end();
      this.#tools.read(one);
    }
  }

  /** Mistral sends lists of parts. */
  #readPart(part: unknown): void {
    if (!isJsonObject(part)) return;
    const { type, text, thinking } = part;
    if (type === 'text' && isText(text)) this.#add('text', text);
    for (const inner of type === 'thinking' && Array.isArray(thinking) ? thinking : []) {
      if (isJsonObject(inner) && isText(inner['text'])) this.#add('reasoning', inner['text']);
    }
  }

  #add(type: 'text' | 'reasoning', text: string): void {
    this.#tools.end(false);
    this.#text.add(type, text);
  }

  #stop(finish: string): { readonly reason: StopReason; readonly sequence: string | null } {
    const reason = REASONS[finish] ?? 'end';
    const matched = this.#matched;
    if (reason === 'length' || reason === 'refusal') return { reason, sequence: null };
    if (this.#tools.count > 0) return { reason: 'tool-calls', sequence: null };
    if (this.#refused) return { reason: 'refusal', sequence: null };
    if (typeof matched === 'string' && this.#context.stop.includes(matched)) {
      return { reason: 'stop-sequence', sequence: matched };
    }
    return { reason: 'end', sequence: null };
  }

  #take(): readonly AnswerEvent[] {
    const events = this.#events;
    this.#events = [];
    return events;
  }
}

/** Finish reasons of servers; any other reason ends the answer as usual. */
const REASONS: Readonly<Record<string, StopReason | undefined>> = {
  length: 'length',
  max_tokens: 'length',
  content_filter: 'refusal',
};
const FAILED: ReadonlySet<string> = new Set(['error', 'abort', 'aborted', 'cancelled']);

/** Joins surrogate halves that an upstream sent in two pieces. */
class TextJoiner {
  readonly #emit: (event: AnswerEvent) => void;
  #type: 'text' | 'reasoning' = 'text';
  #half = '';

  constructor(emit: (event: AnswerEvent) => void) {
    this.#emit = emit;
  }

  add(type: 'text' | 'reasoning', text: string): void {
    if (type !== this.#type) this.end();
    this.#type = type;
    const all = this.#half + text;
    const last = all.charCodeAt(all.length - 1);
    this.#half = last >= 0xd800 && last <= 0xdbff ? all.slice(-1) : '';
    this.#send(all.slice(0, all.length - this.#half.length));
  }

  end(): void {
    const half = this.#half;
    this.#half = '';
    this.#send(half);
  }

  #send(text: string): void {
    if (text !== '') this.#emit({ type: this.#type, text: text.toWellFormed() });
  }
}

export function usageOf(value: unknown): AnswerUsage | undefined {
  if (!isJsonObject(value)) return undefined;
  const details = value['prompt_tokens_details'];
  const inputTokens = count(value['prompt_tokens']);
  const outputTokens = count(value['completion_tokens']);
  if (inputTokens === undefined || outputTokens === undefined) return undefined;
  const cached = isJsonObject(details) ? count(details['cached_tokens']) : undefined;
  const outputs = value['completion_tokens_details'];
  const reasoning = isJsonObject(outputs) ? count(outputs['reasoning_tokens']) : undefined;
  return {
    inputTokens,
    outputTokens,
    cachedTokens: Math.min(cached ?? 0, inputTokens),
    ...(reasoning === undefined ? {} : { reasoningTokens: Math.min(reasoning, outputTokens) }),
  };
}

function count(value: unknown): number | undefined {
  return Number.isSafeInteger(value) && Number(value) >= 0 ? Number(value) : undefined;
}

export function errorMessage(error: unknown): string {
  const message = isJsonObject(error) ? error['message'] : error;
  return isText(message) ? message : 'The model server reported an error.';
}

const isText = (value: unknown): value is string => typeof value === 'string' && value !== '';

export function broken(why: string): BridgeError {
  return new BridgeError('upstream_protocol', why);
}
