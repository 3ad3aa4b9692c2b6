/** Tracks usage and end of an Anthropic answer, event by event or whole. Pure. */
import { isJsonObject, type JsonObject, parseObject } from '../../json-body.ts';
import type { AnswerNotes } from '../../record/answer-notes.ts';
import { eventData, type SsePiece } from '../../sse.ts';
import { estimatedTokens } from '../../token-estimate.ts';
import type { DocumentCounter, StreamCounter, TokenCounts } from '../../usage.ts';
import { inputCounts, inputTokens, tokenCount } from './hide-cache-hits.ts';

const TEXTS = ['text', 'thinking', 'partial_json'];
const SAID = ['text', 'thinking', 'name'];
const isText = (value: unknown): boolean => typeof value === 'string' && value !== '';

export class MessageUsage implements StreamCounter, DocumentCounter {
  #inputs: JsonObject = {};
  #output: number | undefined;
  #isFinal = false;
  #chunks = 0;
  #characters = 0;
  #done = false;
  #failed = false;
  readonly #notes: AnswerNotes | undefined;

  constructor(notes?: AnswerNotes) {
    this.#notes = notes;
  }

  get chunks(): number {
    return this.#chunks;
  }

  /** True after `message_stop`. */
  get done(): boolean {
    return this.#done;
  }

  get failed(): boolean {
    return this.#failed;
  }

  /** Input tokens so far, including those from the cache; undefined if none were reported. */
  get input(): number | undefined {
    return inputTokens(this.#inputs);
  }

  accept({ bytes, kind }: SsePiece): boolean {
    const data = kind === 'event' ? eventData(bytes) : undefined;
    const event = data === undefined ? undefined : parseObject(data);
    if (event !== undefined) this.see(event);
    return true;
  }

  /** @param event data of the next event */
  see(event: JsonObject): void {
    const { type, message, delta, usage, error } = event;
    if (type === 'error' || isJsonObject(error)) this.#failed = true;
    if (type === 'message_stop') this.#done = true;
    if (type === 'message_start' && isJsonObject(message)) this.#read(message['usage'], false);
    if (type === 'message_delta') this.#read(usage, true);
    if (type === 'content_block_start') this.#notes?.readBlock(event['index'], event['content_block']);
    if (type === 'content_block_delta' && isJsonObject(delta)) {
      this.#notes?.readDelta(event['index'], delta);
      this.#readDelta(delta);
    }
  }

  push({ length }: Buffer): void {
    this.#characters += length;
  }

  end(text: string): void {
    const message = parseObject(text);
    this.#read(message?.['usage'], true);
    const content = message?.['content'];
    for (const [index, block] of Array.isArray(content) ? content.entries() : []) {
      this.#notes?.readBlock(index, block);
      const isSaid = isJsonObject(block) && SAID.some((name) => isText(block[name]));
      if (isSaid) this.#chunks += 1;
    }
  }

  counts(promptEstimate: number): TokenCounts {
    const emitted = Math.max(this.#chunks, estimatedTokens(this.#characters));
    const { input } = this;
    // A count of 0 is wrong for an answer with text.
    const isTold = this.#output !== undefined && (this.#output > 0 || this.#chunks === 0);
    const isKnown = this.#isFinal && input !== undefined && isTold;
    const cached = tokenCount(this.#inputs['cache_read_input_tokens']) ?? 0;
    return {
      promptTokens: input ?? promptEstimate,
      ...(input === undefined ? {} : { cachedTokens: Math.min(cached, input) }),
      completionTokens: isKnown ? (this.#output ?? 0) : emitted,
      estimated: !isKnown,
    };
  }

  /** Counts cover the whole answer so far; those of the first event do not include its text. */
  #read(usage: unknown, isFinal: boolean): void {
    if (!isJsonObject(usage)) return;
    this.#inputs = inputCounts(usage, this.#inputs);
    const output = tokenCount(usage['output_tokens']);
    if (!isFinal || output === undefined) return;
    this.#output = output;
    this.#isFinal = true;
  }

  #readDelta(delta: JsonObject): void {
    const before = this.#characters;
    for (const name of TEXTS) {
      const text = delta[name];
      if (typeof text === 'string') this.#characters += text.length;
    }
    if (this.#characters > before) this.#chunks += 1;
  }
}
