/**
 * The interface of an API dialect that clients speak. Pure: requests in, decisions out. A dialect other than the
 * upstream's also has a `translation`.
 */
import type { Clock } from '../../../base/clock.ts';
import type { Checked, Refusal } from '../../../base/http/refusal.ts';
import type { JsonObject } from '../json-body.ts';
import type { KeptAnswers, KeptItem } from '../kept-answers.ts';
import type { BridgePolicy, ModelEntry } from '../policy.ts';
import type { UpstreamApi } from '../upstream/address.ts';
import type { AnswerPiece } from './answer-piece.ts';
import type { AnswerContext, AnswerEvent, ConversationRequest } from './model.ts';

export type Route =
  | { readonly kind: 'models' }
  | { readonly kind: 'model'; readonly id: string }
  | { readonly kind: 'inference'; readonly operation: Operation }
  /** Counts the tokens of a request; no upstream gets it. */
  | { readonly kind: 'count'; readonly operation: Operation }
  /** Describes the model that the body names. */
  | { readonly kind: 'describe'; readonly operation: Operation }
  /** Gives each request the same answer. */
  | { readonly kind: 'fixed'; readonly contentType: string; readonly body: string }
  /** Serves kept responses of the sandbox as JSON. */
  | { readonly kind: 'kept'; serve(kept: KeptAnswers): Checked<string> };

export interface Operation {
  readonly name: string;
  /** Path below the upstream's base, e.g. `/chat/completions`. Never from the guest. */
  readonly upstreamPath: string;
  readonly required: readonly string[];
  /** False for embeddings. */
  readonly generates: boolean;
  /** `in`: the request is a form with an audio file. `out`: the answer is audio. */
  readonly audio?: 'in' | 'out';
}

export interface Inspection {
  readonly model: string | undefined;
  readonly stream: boolean;
  /** True if the answer will have a usage event that the client did not request. */
  readonly hideUsage: boolean;
  readonly promptTokensEstimate: number;
  /** Estimated work of an audio file for a server, whose counts may exclude it. Absent if there is no such file. */
  readonly soundTokensEstimate?: number;
  /** Labels by which the upstream separates users or caches. It gets a hash of each label and the sandbox's id. */
  readonly bound: Readonly<Record<string, string>>;
  /** Top-level members to replace or add before the request goes upstream. */
  readonly edits: Readonly<Record<string, unknown>>;
  /** Set if the request has no prompt and reaches no upstream; `Translation.idle` answers it. */
  readonly idle?: 'load' | 'unload';
  readonly estimate?: unknown;
}

export interface Dialect {
  readonly name: string;
  route(method: string, url: string): Checked<Route>;
  inspect(operation: Operation, body: JsonObject, policy: BridgePolicy): Checked<Inspection>;
  status(refusal: Refusal): number;
  error(refusal: Refusal): string;
  /** The event that reports an error after the status has been sent. */
  errorEvent(refusal: Refusal): string;
  readonly streamType: string;
  /** Keeps a silent stream alive; clients skip it. Empty if the API has nothing that clients skip. */
  readonly keepAlive: string;
  modelList(models: readonly ModelEntry[]): unknown;
  model(model: ModelEntry): unknown;
  /** For upstreams with OpenAI's API. Absent if this dialect is that API, so that bytes pass. */
  readonly translation?: Translation;
  /** Alternative to `translation` for upstreams with this dialect, where bytes pass. */
  readonly direct?: Direct;
  /** For upstreams with another API than OpenAI's, if there is no `translation`. */
  readonly foreign?: ForeignTranslation;
}

export interface ForeignTranslation extends AnswerTranslation {
  read(operation: Operation, body: JsonObject): Checked<Pick<TranslatedRequest, 'conversation' | 'answer'>> | undefined;
}

export interface Direct {
  readonly api: UpstreamApi;
  /** The upstream request for a guest's request that was inspected and can be translated. */
  request(operation: Operation, body: JsonObject, policy: BridgePolicy): DirectRequest;
}

export interface DirectRequest {
  /** Path below the upstream's base. Never from the guest. */
  readonly path: string;
  /** Replaces the guest's own bytes; undefined lets them pass. */
  readonly body: JsonObject | undefined;
  readonly edits: Readonly<Record<string, unknown>>;
}

export interface AnswerTranslation {
  answer(options: AnswerOptions): AnswerWriter;
  /** Headers to add to those that pass. @param received the upstream's headers */
  answerHeaders(
    received: Readonly<Record<string, string | readonly string[] | undefined>>,
  ): Readonly<Record<string, string>>;
}

export interface Translation extends AnswerTranslation {
  /** The upstream request for an inspected request; undefined if it reaches no upstream. */
  request(operation: Operation, body: JsonObject, kept?: KeptContext): Checked<TranslatedRequest | undefined>;
  /** Kept responses that a checked request refers to. Undefined if there are none. */
  needs?(body: JsonObject): KeptNeeds | undefined;
  find?(needs: KeptNeeds, kept: KeptAnswers): Checked<KeptContext>;
  /** Answers a `count` route. */
  tokenCount?(tokens: number): unknown;
  idle?(options: Pick<AnswerOptions, 'operation' | 'model' | 'clock'>, kind: 'load' | 'unload'): unknown;
}

/** Ids of kept responses. Like the next three types, plain data: it moves between threads. */
export interface KeptNeeds {
  readonly previous: string | undefined;
  readonly items: readonly string[];
}

export interface KeptContext {
  /** JSON of the items up to and including the previous answer. */
  readonly conversation: readonly string[];
  /** JSON of other items, by id. */
  readonly items: readonly (readonly [string, string])[];
  readonly characters: number;
}

/** Asks to keep the answer after these items. */
export interface KeepRequest {
  readonly previous: string | undefined;
  /** An item without an id gets one. */
  readonly items: readonly { readonly id: string | undefined; readonly json: string }[];
}

export interface TranslatedRequest {
  /** The conversation that `body` was written from. Absent for embeddings. */
  readonly conversation?: ConversationRequest | undefined;
  readonly body: JsonObject;
  readonly promptTokensEstimate: number;
  readonly answer: AnswerContext;
  readonly keep?: KeepRequest | undefined;
}

export interface AnswerOptions {
  readonly operation: Operation;
  /** The writer is created when the request is sent upstream. */
  readonly clock: Clock;
  readonly id: string;
  readonly model: string;
  readonly stream: boolean;
  readonly promptTokensEstimate: number;
  readonly context: AnswerContext;
  /** If false, numbers that reveal cache hits are 0. */
  readonly showCacheHits: boolean;
  /** Keeps a whole answer for the sandbox, before the caller has the last of it. Undefined if nothing is kept. */
  readonly keep?: ((id: string, json: string, outputs: readonly KeptItem[]) => void) | undefined;
}

/** @throws BridgeError `upstream_protocol`, `upstream_died` */
export interface AnswerReader {
  /** @param data data of the next event of the stream @param see gets all that it contains */
  readEvent(data: string, see?: (piece: AnswerPiece) => void): readonly AnswerEvent[];
  readDocument(text: string, see?: (piece: AnswerPiece) => void): readonly AnswerEvent[];
  /** If present, replaces `readDocument`: called for each part of a long answer, with `end` after the last. */
  readPart?(bytes: Buffer): readonly AnswerEvent[];
  /** Call when the upstream has sent everything. */
  end(): readonly AnswerEvent[];
}

export interface AnswerWriter {
  /** Returns what the client gets now; without a stream, everything with the last event. Not for `error`. */
  write(event: AnswerEvent): string;
  /** True if the client has the whole answer. */
  readonly done: boolean;
  /** Reports an error in place of the rest of a stream. Default: the dialect's `errorEvent`. */
  fail?(refusal: Refusal): string;
}
