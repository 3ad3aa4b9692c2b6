/** What a log keeps of a request and its answer: types and limits. */
import type { FairShare, FairShareLimits } from '../../../base/fairness/fair-share.ts';
import type { ContentMode } from '../../../base/text/content-mode.ts';
import { KIB, MIB } from '../../../base/units.ts';

export const CONTENT_LIMITS = {
  /** Of a request's values, as UTF-8. */
  requestBytesMax: 64 * KIB,
  /** Of those, for all but the conversation: tools, instructions, options. */
  settingsBytesMax: 24 * KIB,
  /** Of all texts of an answer, as UTF-8. */
  answerBytesMax: 64 * KIB,
  /** A longer whole answer that passes unparsed is not kept. */
  documentBytesMax: MIB,
  /** Answers to one request. */
  choicesMax: 8,
  /** Tool calls of one answer. */
  callsMax: 64,
} as const;

/** For contents of requests in flight of all sandboxes. Beyond it they are not kept, and the record says so. */
export const CONTENT_MEMORY: FairShareLimits = { sumMax: 64 * MIB, ownMax: 8 * MIB, guaranteed: 256 * KIB, places: 64 };

/** Plain data: it is made in a thread. */
export interface RequestContent {
  /** Of the body. */
  readonly bytes: number;
  /** Of the request as JSON with sorted keys and without spaces, hexadecimal. Not of what was redacted. */
  readonly sha256?: string;
  /** The request's members: the conversation's newest parts, and the beginning of everything else. */
  readonly body?: Readonly<Record<string, unknown>>;
  /** Older parts of the conversation that are left out. */
  readonly omitted?: number;
  /** A text or list was cut. */
  readonly cut?: true;
}

export interface AnswerContent {
  /** Of the text of the first answer as UTF-8, hexadecimal. Absent: there is none. Not of what was redacted. */
  readonly sha256?: string;
  /** Characters of all texts, in UTF-16 units. */
  readonly characters: number;
  readonly choices?: readonly AnswerChoice[];
  /** Something is missing in `choices`. */
  readonly cut?: true;
}

export interface AnswerChoice {
  readonly text: string;
  readonly reasoning?: string;
  readonly toolCalls?: readonly { readonly name: string; readonly arguments: string }[];
}

export interface Content {
  readonly mode: Exclude<ContentMode, 'off'>;
  /** Null: there was no memory for it. */
  readonly request: RequestContent | null;
  /** Null: there was none. */
  readonly answer: AnswerContent | null;
}

/** What the log keeps of requests and answers, and the memory for those in flight. */
export interface ContentKeeping {
  readonly mode: ContentMode;
  readonly memory: FairShare;
}
