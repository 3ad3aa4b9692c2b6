/**
 * What one event or one whole answer of an upstream contains, in one form for all APIs. Each API has one
 * `AnswerGrammar`; the counter, the log's notes and the translation read its pieces.
 *
 *     upstream's answer ─► AnswerGrammar ─► AnswerPiece ─┬─► counter, notes: every choice, whatever it contains
 *                                                        └─► AnswerEvents: one choice, in order and within limits
 *
 * Beside it: a whole answer of OpenAI's API that passes is counted by its head and tail (`DocumentUsage`), since it may be
 * any size; `hide-cache-hits.ts`, `cache-hints.ts` and `tape/stable-answer.ts` rewrite some members and keep all others.
 *
 * Types only.
 */
import type { JsonObject } from '../json-body.ts';

export interface AnswerGrammar {
  /** @param data data of the next event of a stream. Returns undefined if it is no event of the API. */
  event(data: string): AnswerPiece | undefined;
  document(answer: JsonObject): AnswerPiece;
}

export interface AnswerPiece {
  readonly deltas: readonly AnswerDelta[];
  readonly usage?: UsageReport;
  /** True for an OpenAI chunk that has no choice, only usage. */
  readonly isUsageChunk?: boolean;
  /** The API's error object or message. */
  readonly error?: unknown;
  /** True for the last event of a stream, at which clients hang up. */
  readonly isEnd?: boolean;
}

export interface AnswerDelta {
  /** Number of the choice in the answer. */
  readonly choice: number;
  readonly parts: readonly DeltaPart[];
  /** Why the choice ends; absent if it continues. */
  readonly finish?: Finish;
  /** The stop sequence or other cause of the end that the server names. */
  readonly sequence?: unknown;
}

export type Finish = 'end' | 'length' | 'refusal' | 'failed';

export type DeltaPart = TextDelta | CallDelta;

/** A text that is not empty. `other` is output that only the server's own tools or newer clients read. */
export interface TextDelta {
  readonly type: 'text' | 'reasoning' | 'refusal' | 'other';
  readonly text: string;
}

/** A part of a tool call, as the server cut it: names and ids may be missing, repeated or of any length. */
export interface CallDelta {
  readonly type: 'call';
  /** The server's number for the call. */
  readonly index: number | undefined;
  readonly id: string | undefined;
  readonly name: string | undefined;
  /** Some servers send an object instead of its JSON text. */
  readonly input: string | JsonObject;
}

/** Token counts of the whole answer so far; each is undefined if the server does not report it. */
export interface UsageReport {
  /** Includes tokens from a cache. */
  readonly input: number | undefined;
  readonly cached: number | undefined;
  readonly output: number | undefined;
  readonly reasoning: number | undefined;
  /** True if `output` does not count the text that follows. */
  readonly isEarly?: boolean;
}
