/**
 * A conversation as no API writes it, between the caller's dialect and the upstream's. A caller's dialect reads its
 * requests into a `ConversationRequest` and writes `AnswerEvent`s; an upstream's writes requests and reads answers.
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
  /** Empty: none. */
  readonly system: string;
  /** No two neighbors have the same role. */
  readonly messages: readonly Message[];
  readonly tools: readonly Tool[];
  readonly toolChoice: ToolChoice | undefined;
  /** False: at most one tool call per answer. */
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
  /** JSON Schema of the answer's text; `json`: any JSON object. */
  readonly format: JsonObject | 'json' | undefined;
  /** False: the server may answer past the schema. Absent: true. */
  readonly strictFormat?: boolean | undefined;
  /** How much the model reasons, e.g. `low`. Absent: as it likes. */
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
  /** One of `IMAGE_TYPES`. */
  readonly mediaType: string;
  /** Base64. */
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
  /** Of the call. */
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
 * Parts of an answer in order: `start`; text, reasoning and whole tool calls in any number, or some `vectors`; `usage` at most
 * once; `stop`. `error` may take the place of any, and nothing follows it. A reader keeps this order whatever an upstream sends.
 */
export type AnswerEvent =
  | { readonly type: 'start' }
  | { readonly type: 'text'; readonly text: string }
  | { readonly type: 'reasoning'; readonly text: string }
  /** The id is unique within the answer. */
  | { readonly type: 'tool-start'; readonly id: string; readonly name: string }
  /** All of a call joined: the JSON of an object, or the beginning of one if the stop reason is `length`. */
  | { readonly type: 'tool-arguments'; readonly text: string }
  | { readonly type: 'tool-end' }
  /**
   * A part of the embeddings in the order of their inputs. All parts joined: the JSON of a list for each, as the upstream
   * wrote it, with commas between them.
   */
  | { readonly type: 'vectors'; readonly text: string }
  | { readonly type: 'usage'; readonly usage: AnswerUsage }
  | { readonly type: 'stop'; readonly reason: StopReason; readonly sequence: string | null }
  /** In the upstream's words, whole: they may contain the host's key. */
  | { readonly type: 'error'; readonly message: string };

export interface AnswerUsage {
  /** With those from a cache. */
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly cachedTokens: number;
  /** Of `outputTokens`. Absent: the server does not tell. */
  readonly reasoningTokens?: number;
}

/** What the writer and the reader of an answer know of its request. Plain data: it comes from a thread. */
export interface AnswerContext {
  readonly stop: readonly string[];
  /** True: the caller understands reasoning beside the text. */
  readonly reasoning: boolean;
  /** The number of embeddings that the answer must have. */
  readonly vectors?: number;
  readonly responses?: ResponsesContext;
  /** Of chat completions. True: the stream ends with a chunk of usage. */
  readonly usageChunk?: boolean;
}

/** What OpenAI's Responses API has besides. */
export interface ResponsesContext {
  readonly tools: readonly ToolForm[];
  /** Members of the request that the answer repeats. */
  readonly repeated: JsonObject;
  /** True: reasoning is called a summary, which is what the caller asked for. */
  readonly summary: boolean;
  /** True: the caller wants reasoning encrypted, too. */
  readonly encrypted: boolean;
}

/** A tool as the caller knows it. The upstream knows functions only. */
export interface ToolForm {
  /** `custom` takes a text, `local_shell` a command. */
  readonly type: 'function' | 'custom' | 'local_shell';
  readonly upstreamName: string;
  readonly name: string;
  readonly namespace?: string;
}
