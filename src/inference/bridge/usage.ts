/**
 * Counts the tokens of a request, whether or not the client asked for usage (B11). Reads the answer in bounded memory.
 * Uses the upstream's counts; missing ones are estimated and marked.
 */
import type { AnswerPiece, DeltaPart, UsageReport } from './dialect/answer-piece.ts';
import { streamPiece, usageReport } from './dialect/openai/answer-grammar.ts';
import { isText } from './dialect/read-answer-values.ts';
import { isJsonObject, parseObject } from './json-body.ts';
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

/** Counts an answer of any API by its pieces. */
export class AnswerCounter {
  readonly #notes: AnswerNotes | undefined;
  #usage: UsageReport | undefined;
  #chunks = 0;
  #characters = 0;
  #bytes = 0;
  #hasText = false;
  #finished = false;
  #done = false;
  #failed = false;

  constructor(notes?: AnswerNotes) {
    this.#notes = notes;
  }

  /** Number of deltas with text. */
  get chunks(): number {
    return this.#chunks;
  }

  /** True after a finish reason, the end of a transcript or the last event. */
  get finished(): boolean {
    return this.#finished;
  }

  /** True after the last event, at which clients hang up without waiting for the end of the answer. */
  get done(): boolean {
    return this.#done;
  }

  get failed(): boolean {
    return this.#failed;
  }

  add({ deltas, usage, error, isEnd }: AnswerPiece): void {
    // Clients overlook any other.
    if (isJsonObject(error) || isText(error)) this.#failed = true;
    if (isEnd === true) this.#finished = this.#done = true;
    if (usage !== undefined) this.report(usage);
    for (const delta of deltas) {
      this.#notes?.add(delta);
      if (delta.finish !== undefined) this.finish();
      const length = delta.parts.reduce((sum, part) => sum + lengthOf(part), 0);
      if (length === 0) continue;
      this.#characters += length;
      this.#chunks += 1;
      this.#hasText = true;
    }
  }

  /** Counts bytes of a whole answer, which has not been read yet. */
  push({ length }: Buffer): void {
    this.#bytes += length;
  }

  counts(promptEstimate: number): TokenCounts {
    // Most servers send one token per chunk; if they send more, the length shows it.
    const emitted = Math.max(this.#chunks, estimatedTokens(Math.max(this.#characters, this.#bytes)));
    return countsOf(this.#usage, promptEstimate, emitted, this.#hasText);
  }

  protected finish(): void {
    this.#finished = true;
  }

  /** Counts text that is too large to be parsed. */
  protected skip(bytes: number): void {
    this.#characters += bytes;
    this.#hasText ||= bytes > 0;
    this.#notes?.skip(bytes);
  }

  protected report(usage: UsageReport): void {
    // Ollama adds zeros to each text of a completion. Used as counts, they would make a canceled stream free.
    const isZero = usage.input === 0 && usage.output === 0;
    // A non-number replaces no earlier count.
    if (!isZero && usage.input !== undefined) this.#usage = usage;
  }
}

/** Counts the events of OpenAI's API, which pass byte for byte. */
export class StreamUsage extends AnswerCounter {
  readonly #hideUsage: boolean;
  #hid = false;

  /** @param hideUsage drop the usage event, which only the bridge requested */
  constructor(hideUsage: boolean, notes?: AnswerNotes) {
    super(notes);
    this.#hideUsage = hideUsage;
  }

  /** @returns true if the client should get the piece */
  accept(piece: SsePiece): boolean {
    if (piece.kind === 'ending') return !this.#hid;
    const hide = piece.kind === 'event' && this.#read(piece.bytes);
    if (piece.kind === 'part') this.skip(piece.bytes.length);
    this.#hid = hide;
    return !hide;
  }

  /** @returns true for the usage event that only the bridge requested */
  #read(bytes: Buffer): boolean {
    if (bytes.length > PARSED_EVENT_BYTES_MAX) {
      this.#readLarge(bytes);
      return false;
    }
    const data = eventData(bytes);
    const piece = data === undefined ? undefined : streamPiece(data);
    if (piece === undefined) return false;
    this.add(piece);
    return this.#hideUsage && piece.isUsageChunk === true;
  }

  /**
   * Parses a large event only at the end of a transcript, where it repeats the whole text, maybe with numbers for each
   * token.
   */
  #readLarge(bytes: Buffer): void {
    if (!bytes.subarray(0, EVENT_TYPE_BYTES).includes('"transcript.text.done"')) {
      this.skip(bytes.length);
      return;
    }
    this.finish();
    const usage = findUsage(bytes.subarray(-KEPT_BYTES_MAX).toString('utf8'));
    if (usage !== undefined) this.report(usage);
  }
}

/** Text that a model produced: content, reasoning and tool calls, but not roles and ids. */
function lengthOf(part: DeltaPart): number {
  if (part.type !== 'call') return part.text.length;
  return (part.name?.length ?? 0) + (typeof part.input === 'string' ? part.input.length : 0);
}

/** Usage is at the beginning or end of an answer; embeddings in between may take megabytes. */
const KEPT_BYTES_MAX = 64 * 1024;

/** Usage of an answer that is one JSON document. Keeps only the head and the tail. */
export class DocumentUsage {
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
    return countsOf(findUsage(tail) ?? findUsage(head), promptEstimate, emitted, false, generates);
  }
}

/** The object after the last `"usage":`. Inside a JSON string the quotes would be escaped, so any match is a key. */
function findUsage(text: string): UsageReport | undefined {
  for (let at = text.lastIndexOf('"usage"'); at >= 0; at = text.lastIndexOf('"usage"', at - 1)) {
    const match = /^"usage"\s*:\s*(\{)/.exec(text.slice(at, at + 64));
    const usage = match === null ? undefined : parseObject(balanced(text, at + match[0].length - 1));
    if (match !== null) return usage && usageReport(usage);
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

/**
 * @param hasText true if the answer has text, so that 0 tokens is wrong
 * @param generates false for embeddings, which have no completion to count
 */
function countsOf(
  usage: UsageReport | undefined,
  promptEstimate: number,
  completionEstimate: number,
  hasText: boolean,
  generates = true,
): TokenCounts {
  if (usage?.input === undefined) {
    return { promptTokens: promptEstimate, completionTokens: completionEstimate, estimated: true };
  }
  const { input, cached, output = 0, isEarly = false } = usage;
  const isKnown = usage.output !== undefined && !isEarly && (output > 0 || !hasText);
  return {
    promptTokens: input,
    ...(cached === undefined ? {} : { cachedTokens: Math.min(cached, input) }),
    completionTokens: isKnown ? output : completionEstimate,
    estimated: !isKnown && generates,
  };
}
