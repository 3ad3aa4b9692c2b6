/**
 * The API-neutral conversation between the caller's dialect and the upstream's. A caller's dialect reads requests into
 * a `ConversationRequest` and writes `AnswerEvent`s; an upstream's dialect writes requests and reads answers.
 *
 *     caller's request ─► read ─► ConversationRequest ─► write ─► upstream's request
 *     caller's answer ◄─ write ◄─── AnswerEvent … ◄───── read ◄─ upstream's answer
 *
 * docs/reference/ lists what each pair of dialects loses. Types only.
 */
import type { JsonObject } from '../json-body.ts';

export interface ConversationRequest {
  readonly model: string | undefined;
  readonly stream: boolean;
  readonly system: string;
  /** No two neighbors have the same role. */
  readonly messages: readonly Message[];
  readonly tools: readonly Tool[];
  readonly toolChoice: ToolChoice | undefined;
  /** If false, an answer has at most one tool call. */
  readonly parallelToolCalls: boolean;
  readonly maxTokens: number | undefined;
  readonly temperature: number | undefined;
  readonly topP: number | undefined;
  readonly topK: number | undefined;
  readonly minP?: number | undefined;
  readonly seed?: number | undefined;
  readonly presencePenalty?: number | undefined;
  readonly frequencyPenalty?: number | undefined;
  readonly stop: readonly string[];
  /** JSON Schema of the answer's text; `json` for any JSON object. */
  readonly format: JsonObject | 'json' | undefined;
  /** If false, the server may deviate from the schema. Default true. */
  readonly strictFormat?: boolean | undefined;
  /** Reasoning effort, e.g. `low`. Default: the model's own. */
  readonly effort?: string | undefined;
}

export interface Message {
  readonly role: 'user' | 'assistant';
  readonly parts: readonly Part[];
}

export type Part = TextPart | ImagePart | ReasoningPart | ToolCallPart | ToolResultPart;

export interface TextPart {
  readonly type: 'text';
  readonly text: string;
}

export interface ImagePart {
  readonly type: 'image';
  readonly mediaType: string;
  readonly data: string;
}

export interface ReasoningPart {
  readonly type: 'reasoning';
  readonly text: string;
}

export interface ToolCallPart {
  readonly type: 'tool-call';
  readonly id: string;
  readonly name: string;
  readonly input: JsonObject;
}

export interface ToolResultPart {
  readonly type: 'tool-result';
  readonly id: string;
  readonly isError: boolean;
  readonly content: readonly (TextPart | ImagePart)[];
}

export interface Tool {
  readonly name: string;
  readonly description: string | undefined;
  readonly schema: JsonObject;
  readonly strict: boolean | undefined;
}

export type ToolChoice = { readonly type: 'auto' | 'any' | 'none' } | { readonly type: 'tool'; readonly name: string };

export type StopReason = 'end' | 'length' | 'stop-sequence' | 'tool-calls' | 'refusal';

/**
 * Parts of an answer in order: `start`; any number of texts, reasonings and whole tool calls, or some `vectors`;
 * `usage` at most once; `stop`. `error` may replace any of them, and nothing follows it. A reader keeps this order
 * whatever an upstream sends.
 */
export type AnswerEvent =
  | { readonly type: 'start' }
  | { readonly type: 'text'; readonly text: string }
  | { readonly type: 'reasoning'; readonly text: string }
  | { readonly type: 'tool-start'; readonly id: string; readonly name: string }
  /** Joined over a call, these are the JSON of an object, or the beginning of it if the stop reason is `length`. */
  | { readonly type: 'tool-arguments'; readonly text: string }
  | { readonly type: 'tool-end' }
  /**
   * A part of the embeddings, in the order of their inputs. All parts joined are comma-separated JSON lists, one for
   * each input, as the upstream wrote them.
   */
  | { readonly type: 'vectors'; readonly text: string }
  | { readonly type: 'usage'; readonly usage: AnswerUsage }
  | { readonly type: 'stop'; readonly reason: StopReason; readonly sequence: string | null }
  /** The upstream's whole message, which may contain the host's key. */
  | { readonly type: 'error'; readonly message: string };

export interface AnswerUsage {
  /** Includes tokens from a cache. */
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly cachedTokens: number;
  /** Part of `outputTokens`. Absent if the server does not report it. */
  readonly reasoningTokens?: number;
}

/** Request data that the reader and the writer of an answer need. Plain data: it comes from a thread. */
export interface AnswerContext {
  readonly stop: readonly string[];
  /** True if the caller understands reasoning apart from the text. */
  readonly reasoning: boolean;
  /** Number of embeddings that the answer must have. */
  readonly vectors?: number;
  readonly responses?: ResponsesContext;
  /** For chat completions: true if the stream ends with a usage chunk. */
  readonly usageChunk?: boolean;
}

export interface ResponsesContext {
  readonly tools: readonly ToolForm[];
  readonly repeated: JsonObject;
  /** True if the caller asked for a reasoning summary; reasoning is then returned as one. */
  readonly summary: boolean;
  /** True if the caller also wants encrypted reasoning. */
  readonly encrypted: boolean;
}

/** A tool as the caller knows it. The upstream knows only functions. */
export interface ToolForm {
  /** `custom` takes a text, `local_shell` a command. */
  readonly type: 'function' | 'custom' | 'local_shell';
  readonly upstreamName: string;
  readonly name: string;
  readonly namespace?: string;
}
