/**
 * The rules of an API that clients speak. Pure: requests in, decisions out. A dialect other than the upstream's also has a
 * `translation`.
 */
import type { Clock } from '../../../base/clock.ts';
import type { JsonObject } from '../json-body.ts';
import type { KeptAnswers, KeptItem } from '../kept-answers.ts';
import type { BridgePolicy, ModelEntry } from '../policy.ts';
import type { Checked, Refusal } from '../refusal.ts';
import type { UpstreamApi } from '../upstream/address.ts';
import type { AnswerContext, AnswerEvent, ConversationRequest } from './model.ts';

export type Route =
  | { readonly kind: 'models' }
  | { readonly kind: 'model'; readonly id: string }
  | { readonly kind: 'inference'; readonly operation: Operation }
  /** The number of tokens in a request, which no upstream gets. */
  | { readonly kind: 'count'; readonly operation: Operation }
  /** One model, which the body names. */
  | { readonly kind: 'describe'; readonly operation: Operation }
  /** The same for each request. */
  | { readonly kind: 'fixed'; readonly contentType: string; readonly body: string }
  /** Something about answers that the bridge keeps for the sandbox: JSON. */
  | { readonly kind: 'kept'; serve(kept: KeptAnswers): Checked<string> };

export interface Operation {
  readonly name: string;
  /** Path below the upstream's base, e.g. `/chat/completions`. Never from the guest. */
  readonly upstreamPath: string;
  /** The body must have at least one of these members. */
  readonly required: readonly string[];
  /** False for embeddings. */
  readonly generates: boolean;
  /** `in`: the request is a form with a file of sound. `out`: the answer is sound. */
  readonly audio?: 'in' | 'out';
}

export interface Inspection {
  /** Name from the request; undefined if it has none. */
  readonly model: string | undefined;
  readonly stream: boolean;
  /** True when the answer will have a usage event that the client did not ask for. */
  readonly hideUsage: boolean;
  readonly promptTokensEstimate: number;
  /** Work that a file of sound is for a server, which may count none of it. Absent: there is no such file. */
  readonly soundTokensEstimate?: number;
  /** Labels by which the upstream tells users or caches apart; it gets a hash of each and the sandbox's id. */
  readonly bound: Readonly<Record<string, string>>;
  /** Top-level members to replace or add before the request goes upstream. */
  readonly edits: Readonly<Record<string, unknown>>;
  /** Present: the request has no prompt and reaches no upstream; `Translation.idle` answers it. */
  readonly idle?: 'load' | 'unload';
  /** Of a count of tokens: the answer where no model server counts. */
  readonly estimate?: unknown;
}

export interface Dialect {
  readonly name: string;
  route(method: string, url: string): Checked<Route>;
  inspect(operation: Operation, body: JsonObject, policy: BridgePolicy): Checked<Inspection>;
  /** Status of an error answer. */
  status(refusal: Refusal): number;
  /** Body of an error answer. */
  error(refusal: Refusal): string;
  /** The event that reports an error after the status has been sent. */
  errorEvent(refusal: Refusal): string;
  /** Content type of streams. */
  readonly streamType: string;
  /** Keeps a silent stream alive; clients skip it. Empty: clients would skip nothing. */
  readonly keepAlive: string;
  modelList(models: readonly ModelEntry[]): unknown;
  model(model: ModelEntry): unknown;
  /** For upstreams that speak OpenAI's API. Absent: the dialect is that API, and bytes pass. */
  readonly translation?: Translation;
  /** Beside the translation: some upstreams speak this dialect themselves, and bytes pass. */
  readonly direct?: Direct;
  /** For upstreams of another API than OpenAI's, where there is no `translation`. */
  readonly foreign?: ForeignTranslation;
}

export interface ForeignTranslation extends AnswerTranslation {
  /** Undefined: no other API has the operation. */
  read(operation: Operation, body: JsonObject): Checked<Pick<TranslatedRequest, 'conversation' | 'answer'>> | undefined;
}

export interface Direct {
  readonly api: UpstreamApi;
  /** What such an upstream gets for a request that was inspected and could be translated. */
  request(operation: Operation, body: JsonObject, policy: BridgePolicy): DirectRequest;
}

export interface DirectRequest {
  /** Path below the upstream's base. Never from the guest. */
  readonly path: string;
  /** In place of the guest's own bytes. Undefined: they pass. */
  readonly body: JsonObject | undefined;
  /** Top-level members to replace or add. */
  readonly edits: Readonly<Record<string, unknown>>;
}

export interface AnswerTranslation {
  answer(options: AnswerOptions): AnswerWriter;
  /** Headers beside those that pass; `received` are the upstream's. */
  answerHeaders(
    received: Readonly<Record<string, string | readonly string[] | undefined>>,
  ): Readonly<Record<string, string>>;
}

export interface Translation extends AnswerTranslation {
  /** The upstream's request for one that was inspected; undefined: it reaches no upstream. */
  request(operation: Operation, body: JsonObject, kept?: KeptContext): Checked<TranslatedRequest | undefined>;
  /** What a request, whose fields were checked, refers to. Absent, or undefined: nothing that the bridge keeps. */
  needs?(body: JsonObject): KeptNeeds | undefined;
  /** What `needs` asks for. */
  find?(needs: KeptNeeds, kept: KeptAnswers): Checked<KeptContext>;
  /** Answers a `count` route. */
  tokenCount?(tokens: number): unknown;
  /** Answers a request that is `idle`. */
  idle?(options: Pick<AnswerOptions, 'operation' | 'model' | 'clock'>, kind: 'load' | 'unload'): unknown;
}

/** By id. Plain data, as the next three: it moves between threads. */
export interface KeptNeeds {
  readonly previous: string | undefined;
  readonly items: readonly string[];
}

export interface KeptContext {
  /** JSON of the items up to the previous answer, with it. */
  readonly conversation: readonly string[];
  /** JSON of other items, by id. */
  readonly items: readonly (readonly [string, string])[];
  /** Length of all these texts together. */
  readonly characters: number;
}

/** The answer is to be kept, after these items. */
export interface KeepRequest {
  readonly previous: string | undefined;
  /** An item without an id gets one. */
  readonly items: readonly { readonly id: string | undefined; readonly json: string }[];
}

export interface TranslatedRequest {
  /** What it was written from. Absent: it is none, as for embeddings. */
  readonly conversation?: ConversationRequest | undefined;
  readonly body: JsonObject;
  /** In place of the inspection's. */
  readonly promptTokensEstimate: number;
  readonly answer: AnswerContext;
  readonly keep?: KeepRequest | undefined;
}

export interface AnswerOptions {
  readonly operation: Operation;
  /** The writer is made when the request is sent upstream. */
  readonly clock: Clock;
  /** Random, of the answer. */
  readonly id: string;
  readonly model: string;
  readonly stream: boolean;
  readonly promptTokensEstimate: number;
  readonly context: AnswerContext;
  /** False: numbers that tell cache hits are 0. */
  readonly showCacheHits: boolean;
  /** Keeps a whole answer for the sandbox, before the caller has the last of it. Undefined: nothing is kept. */
  readonly keep?: ((id: string, json: string, outputs: readonly KeptItem[]) => void) | undefined;
}

/** @throws BridgeError `upstream_protocol`, `upstream_died` */
export interface AnswerReader {
  /** The data of the next event of a stream. */
  readEvent(data: string): readonly AnswerEvent[];
  /** A whole answer. */
  readDocument(text: string): readonly AnswerEvent[];
  /** Present: in place of `readDocument`, for each part of a long answer, and `end` after the last. */
  readPart?(bytes: Buffer): readonly AnswerEvent[];
  /** The upstream has sent everything. */
  end(): readonly AnswerEvent[];
}

export interface AnswerWriter {
  /** Returns what the client gets now; without a stream, all of it with the last event. Not for `error`. */
  write(event: AnswerEvent): string;
  /** True when the client has the whole answer. */
  readonly done: boolean;
  /** Reports an error in place of the rest of a stream. Absent: the dialect's `errorEvent` does. */
  fail?(refusal: Refusal): string;
}
