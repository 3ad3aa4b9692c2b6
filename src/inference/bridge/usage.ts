/**
 * Counts the tokens of a request, whether or not the client asked for usage (B11). Reads the answer in bounded memory.
 * Uses the upstream's counts; missing ones are estimated and marked.
 */
import { isJsonObject, type JsonObject, parseObject } from './json-body.ts';
import type { AnswerNotes } from './record/answer-notes.ts';
import { eventData, type SsePiece } from './sse.ts';
import { estimatedTokens } from './token-estimate.ts';

/**
 * Usage of one request that reached the upstream or was answered from the cache, recorded when its answer has been sent
 * or was abandoned.
 */
export interface UsageRecord {
  readonly sandboxId: string;
  readonly model: string;
  readonly operation: string;
  readonly promptTokens: number;
  readonly completionTokens: number;
  readonly estimated: boolean;
  readonly stream: boolean;
  /** True if the answer came from the cache: no upstream had the request, and it used no tokens. */
  readonly cached?: true;
  /** HTTP status that the guest got; 0 if it disconnected before. */
  readonly status: number;
  readonly outcome: UsageOutcome;
  readonly timings: {
    /** Time until the upstream was available. */
    readonly queueMs: number;
    /** From the end of the request to the first byte of the answer's body; `null` if there was none. */
    readonly ttftMs: number | null;
    /** From the first to the last byte of the exchange. */
    readonly totalMs: number;
  };
}

export type UsageOutcome =
  | 'ok'
  | 'cancelled'
  /** The upstream answered with an error, in its status or in its stream. */
  | 'upstream-error'
  | 'upstream-lost';

export interface TokenCounts {
  readonly promptTokens: number;
  /** The part of `promptTokens` that the upstream read from its cache. Absent if unknown. */
  readonly cachedTokens?: number;
  readonly completionTokens: number;
  readonly estimated: boolean;
}

export const NO_TOKENS: TokenCounts = { promptTokens: 0, completionTokens: 0, estimated: false };

/** Larger events are not parsed; their size counts as text. */
const PARSED_EVENT_BYTES_MAX = 256 * 1024;
/** The type of an event is its first member. */
const EVENT_TYPE_BYTES = 128;

export interface StreamCounter {
  readonly chunks: number;
  /** True after the last event, at which clients hang up without waiting for the end of the answer. */
  readonly done: boolean;
  readonly failed: boolean;
  /** @returns true if the client should get the piece */
  accept(piece: SsePiece): boolean;
  counts(promptEstimate: number): TokenCounts;
}

export interface DocumentCounter {
  push(chunk: Buffer): void;
  end?(text: string): void;
}

export class StreamUsage implements StreamCounter {
  readonly #hideUsage: boolean;
  readonly #notes: AnswerNotes | undefined;
  #hid = false;
  #usage: JsonObject | undefined;
  #chunks = 0;
  #characters = 0;
  #finished = false;
  #done = false;
  #failed = false;

  /** @param hideUsage drop the usage event, which only the bridge requested */
  constructor(hideUsage: boolean, notes?: AnswerNotes) {
    this.#hideUsage = hideUsage;
    this.#notes = notes;
  }

  /** True after a finish reason, the end of a transcript or `[DONE]`. */
  get finished(): boolean {
    return this.#finished;
  }

  get done(): boolean {
    return this.#done;
  }

  get chunks(): number {
    return this.#chunks;
  }

  get failed(): boolean {
    return this.#failed;
  }

  accept(piece: SsePiece): boolean {
    if (piece.kind === 'ending') return !this.#hid;
    const hide = piece.kind === 'event' && this.#read(piece.bytes);
    if (piece.kind === 'part') this.#skip(piece.bytes.length);
    this.#hid = hide;
    return !hide;
  }

  counts(promptEstimate: number): TokenCounts {
    // Most servers send one token per chunk; if they send more, the length shows it.
    const emitted = Math.max(this.#chunks, estimatedTokens(this.#characters));
    return countsOf(this.#usage, promptEstimate, emitted, emitted > 0);
  }

  /** @returns true for the usage event that only the bridge requested */
  #read(bytes: Buffer): boolean {
    if (bytes.length > PARSED_EVENT_BYTES_MAX) {
      this.#readLarge(bytes);
      return false;
    }
    const data = eventData(bytes);
    if (data === undefined) return false;
    if (data.trim() === '[DONE]') {
      this.#finished = true;
      this.#done = true;
      return false;
    }
    const event = parseObject(data);
    if (event === undefined) return false;
    if (isJsonObject(event['error'])) this.#failed = true;
    const { usage, choices, type, delta } = event;
    if (type === 'transcript.text.done') this.#finished = true;
    if (type === 'transcript.text.delta' && typeof delta === 'string') {
      this.#characters += delta.length;
      this.#chunks += 1;
    }
    // Ollama adds zeros to each text of a completion. Used as counts, they would make a canceled stream free.
    if (isJsonObject(usage) && !isZero(usage) && isTold(usage, this.#usage)) this.#usage = usage;
    if (!Array.isArray(choices)) return false;
    for (const choice of choices) this.#readChoice(choice);
    return this.#hideUsage && isJsonObject(usage) && choices.length === 0;
  }

  /**
   * Parses a large event only at the end of a transcript, where it repeats the whole text, maybe with numbers for each
   * token.
   */
  #readLarge(bytes: Buffer): void {
    if (!bytes.subarray(0, EVENT_TYPE_BYTES).includes('"transcript.text.done"')) {
      this.#skip(bytes.length);
      return;
    }
    this.#finished = true;
    this.#usage = findUsage(bytes.subarray(-KEPT_BYTES_MAX).toString('utf8')) ?? this.#usage;
  }

  #skip(bytes: number): void {
    this.#characters += bytes;
    this.#notes?.skip(bytes);
  }

  #readChoice(choice: unknown): void {
    if (!isJsonObject(choice)) return;
    this.#notes?.readChoice(choice);
    const finish = choice['finish_reason'];
    if (typeof finish === 'string' && finish !== '') this.#finished = true;
    const before = this.#characters;
    const text = choice['text'];
    if (typeof text === 'string') this.#characters += text.length;
    const delta = choice['delta'];
    if (isJsonObject(delta)) this.#characters += textLength(delta);
    if (this.#characters > before) this.#chunks += 1;
  }
}

/** A non-number replaces no earlier count. */
const isTold = (usage: JsonObject, before: JsonObject | undefined): boolean =>
  before === undefined || promptOf(usage) !== undefined;

/** Transcripts use the field names of OpenAI's newer APIs. */
const promptOf = (usage: JsonObject | undefined): number | undefined =>
  count(usage?.['prompt_tokens'] ?? usage?.['input_tokens']);

const isZero = (usage: JsonObject): boolean => usage['prompt_tokens'] === 0 && usage['completion_tokens'] === 0;

/** Length of the text that a model produced in a delta: content, reasoning and tool calls, but not roles and ids. */
function textLength(delta: JsonObject): number {
  let length = 0;
  for (const key of ['content', 'reasoning_content', 'reasoning', 'refusal']) {
    const value = delta[key];
    if (typeof value === 'string') length += value.length;
  }
  const calls = delta['tool_calls'];
  for (const call of Array.isArray(calls) ? calls : []) {
    const fn = isJsonObject(call) ? call['function'] : undefined;
    if (!isJsonObject(fn)) continue;
    for (const part of [fn['name'], fn['arguments']]) {
      if (typeof part === 'string') length += part.length;
    }
  }
  return length;
}

/** Usage is at the beginning or end of an answer; embeddings in between may take megabytes. */
const KEPT_BYTES_MAX = 64 * 1024;

/** Usage of an answer that is one JSON document. Keeps only the head and the tail. */
export class DocumentUsage implements DocumentCounter {
  #head: Buffer[] = [];
  #headBytes = 0;
  #tail: Buffer[] = [];
  #tailBytes = 0;
  #bytes = 0;
  readonly #notes: AnswerNotes | undefined;

  constructor(notes?: AnswerNotes) {
    this.#notes = notes;
  }

  push(chunk: Buffer): void {
    this.#bytes += chunk.length;
    this.#notes?.push(chunk);
    const forHead = chunk.subarray(0, KEPT_BYTES_MAX - this.#headBytes);
    if (forHead.length > 0) this.#head.push(forHead);
    this.#headBytes += forHead.length;
    const forTail = chunk.subarray(forHead.length);
    if (forTail.length === 0) return;
    this.#tail.push(forTail);
    this.#tailBytes += forTail.length;
    if (this.#tailBytes > 2 * KEPT_BYTES_MAX) {
      this.#tail = [Buffer.from(Buffer.concat(this.#tail).subarray(-KEPT_BYTES_MAX))];
      this.#tailBytes = KEPT_BYTES_MAX;
    }
  }

  /** @param generates false for embeddings, which have no completion */
  counts(promptEstimate: number, generates: boolean): TokenCounts {
    const emitted = generates ? estimatedTokens(this.#bytes) : 0;
    const tail = Buffer.concat(this.#tail).toString('utf8');
    const head = Buffer.concat(this.#head).toString('utf8');
    return countsOf(findUsage(tail) ?? findUsage(head), promptEstimate, emitted, false);
  }
}

/** The object after the last `"usage":`. Inside a JSON string the quotes would be escaped, so any match is a key. */
function findUsage(text: string): JsonObject | undefined {
  for (let at = text.lastIndexOf('"usage"'); at >= 0; at = text.lastIndexOf('"usage"', at - 1)) {
    const match = /^"usage"\s*:\s*(\{)/.exec(text.slice(at, at + 64));
    if (match !== null) return parseObject(balanced(text, at + match[0].length - 1));
    if (at === 0) break;
  }
  return undefined;
}

/** The text from the brace at `start` to its closing brace. Usage has no braces in strings. */
function balanced(text: string, start: number): string {
  let depth = 0;
  for (let i = start; i < text.length; i += 1) {
    if (text[i] === '{') depth += 1;
    if (text[i] === '}') depth -= 1;
    if (depth === 0) return text.slice(start, i + 1);
  }
  return '';
}

/** @param hasText true if the answer has text, so that 0 tokens is wrong */
function countsOf(
  usage: JsonObject | undefined,
  promptEstimate: number,
  completionEstimate: number,
  hasText: boolean,
): TokenCounts {
  const prompt = promptOf(usage);
  if (prompt === undefined) {
    return { promptTokens: promptEstimate, completionTokens: completionEstimate, estimated: true };
  }
  const completion = count(usage?.['completion_tokens'] ?? usage?.['output_tokens']);
  const isKnown = completion !== undefined && (completion > 0 || !hasText);
  const cached = count(member(usage?.['prompt_tokens_details'], 'cached_tokens'));
  return {
    promptTokens: prompt,
    ...(cached === undefined ? {} : { cachedTokens: Math.min(cached, prompt) }),
    completionTokens: isKnown ? completion : completionEstimate,
    // An embedding has no completion to count.
    estimated: !isKnown && completionEstimate > 0,
  };
}

function member(value: unknown, name: string): unknown {
  return isJsonObject(value) ? value[name] : undefined;
}

function count(value: unknown): number | undefined {
  return Number.isSafeInteger(value) && Number(value) >= 0 ? Number(value) : undefined;
}
