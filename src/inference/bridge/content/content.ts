/** Types and limits of the request and answer content that a log keeps. */
import type { FairShare, FairShareLimits } from '../../../base/fairness/fair-share.ts';
import type { ContentMode } from '../../../base/text/content-mode.ts';
import { KIB, MIB } from '../../../base/units.ts';

export const CONTENT_LIMITS = {
  /** Limit of a request's values as UTF-8. */
  requestBytesMax: 64 * KIB,
  /** The part of it for everything but the conversation: tools, instructions, options. */
  settingsBytesMax: 24 * KIB,
  /** Limit of all texts of an answer as UTF-8. */
  answerBytesMax: 64 * KIB,
  /** A longer answer that comes whole and passes unparsed is not kept. */
  documentBytesMax: MIB,
  choicesMax: 8,
  callsMax: 64,
} as const;

/**
 * Memory for contents of requests in flight of all sandboxes. Beyond it contents are not kept, and the record says so.
 */
export const CONTENT_MEMORY: FairShareLimits = { sumMax: 64 * MIB, ownMax: 8 * MIB, guaranteed: 256 * KIB, places: 64 };

export interface RequestContent {
  readonly bytes: number;
  /** Hash of the request as JSON with sorted keys and no spaces, in hexadecimal. Absent in mode `redacted`. */
  readonly sha256?: string;
  /** The request's members: the newest parts of the conversation, and the beginning of everything else. */
  readonly body?: Readonly<Record<string, unknown>>;
  /** Number of older parts of the conversation that are left out. */
  readonly omitted?: number;
  readonly cut?: true;
}

export interface AnswerContent {
  /**
   * Hash of the text of the first answer as UTF-8, in hexadecimal. Absent if there is no text, and in mode `redacted`.
   */
  readonly sha256?: string;
  /** Length of all texts in UTF-16 units. */
  readonly characters: number;
  readonly choices?: readonly AnswerChoice[];
  readonly cut?: true;
}

export interface AnswerChoice {
  readonly text: string;
  readonly reasoning?: string;
  readonly toolCalls?: readonly { readonly name: string; readonly arguments: string }[];
}

export interface Content {
  readonly mode: Exclude<ContentMode, 'off'>;
  /** `null` if there was no memory for it. */
  readonly request: RequestContent | null;
  /** `null` if there was no answer. */
  readonly answer: AnswerContent | null;
}

export interface ContentKeeping {
  readonly mode: ContentMode;
  readonly memory: FairShare;
}
