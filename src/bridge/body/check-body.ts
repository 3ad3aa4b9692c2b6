/** Checks the body of an inference request. Pure, so that it can run in a thread (`body-worker.ts`). */
import { assert } from '../../base/assert.ts';
import type { ContentMode } from '../../base/text/content-mode.ts';
import { type OutputLimit, outputLimitOf } from '../budget/output-limit.ts';
import type { RequestContent } from '../content/content.ts';
import { requestContent } from '../content/request-content.ts';
import { writeMessagesRequest } from '../dialect/anthropic/write-request.ts';
import type {
  Inspection,
  KeepRequest,
  KeptContext,
  KeptNeeds,
  Operation,
} from '../dialect/dialect.ts';
import { DIALECTS } from '../dialect/dialects.ts';
import type { AnswerContext } from '../dialect/model.ts';
import {
  type JsonLayout,
  type JsonLimits,
  type JsonObject,
  layoutOf,
  parseJsonBody,
} from '../json-body.ts';
import type { BridgePolicy } from '../policy.ts';
import { accepted, type Checked, type Refusal } from '../refusal.ts';
import { exactKey } from '../response-cache/exact-key.ts';
import { conversationOf } from '../routing/affinity.ts';
import type { UpstreamApi } from '../upstream/address.ts';

const MESSAGES_PATH = '/messages';

/** Plain data: it is sent to a thread. */
export interface BodyCheck {
  /** A name in `DIALECTS`. */
  readonly dialect: string;
  readonly operation: Operation;
  readonly policy: BridgePolicy;
  readonly limits: JsonLimits;
  /** Those of the host's upstreams. */
  readonly apis: readonly UpstreamApi[];
  /** There is more than one upstream, among which a conversation should keep its own. */
  readonly hasChoice: boolean;
  /** What the log keeps of the request. Absent: nothing. */
  readonly content?: ContentMode;
  /** What a check without it found to be needed. */
  readonly kept?: KeptContext;
}

export interface CheckedBody {
  readonly inspection: Inspection;
  /** The same for all requests of a conversation; null: it has none. */
  readonly conversation: string | null;
  /** What upstreams get, by the API that they speak. Absent: the request can't be sent there. */
  readonly forms: RequestForms;
  /** Why the request has no form for upstreams of an API, if there is a reason. */
  readonly unfit?: Readonly<Partial<Record<UpstreamApi, Refusal>>>;
  /** The same for requests that get one answer from the cache. Absent: it takes no part. */
  readonly exact?: string;
  readonly content?: RequestContent | undefined;
  /** The forms are missing: this is to be looked up first. */
  readonly needs?: KeptNeeds;
}

export type RequestForms = Readonly<Partial<Record<UpstreamApi, RequestForm>>>;

export interface RequestForm {
  /** Path below the upstream's base. Never from the guest. */
  readonly path: string;
  /** Goes upstream in place of the body. Absent: the body does. */
  readonly bytes?: Uint8Array;
  /** Of what goes upstream; for `editJson`. */
  readonly layout: JsonLayout;
  /** Top-level members to replace or add. */
  readonly edits: Readonly<Record<string, unknown>>;
  /** Null: the operation generates nothing. */
  readonly output: OutputLimit | null;
  /** Present: the answer has to be translated. */
  readonly translated?: TranslatedForm;
}

export interface TranslatedForm {
  readonly answer: AnswerContext;
  readonly keep: KeepRequest | undefined;
}

export function checkBody(bytes: Buffer, check: BodyCheck): Checked<CheckedBody> {
  const dialect = DIALECTS[check.dialect];
  assert(dialect !== undefined, 'a known dialect');
  const { operation } = check;
  const body = parseJsonBody(bytes, check.limits);
  if (!body.ok) return body;
  const { value, layout } = body.value;
  const inspected = dialect.inspect(operation, value, check.policy);
  if (!inspected.ok) return inspected;
  const inspection = inspected.value;
  const needs = check.kept === undefined ? dialect.translation?.needs?.(value) : undefined;
  if (needs !== undefined) return accepted({ inspection, forms: {}, needs, conversation: null });
  const translated = dialect.translation?.request(operation, value, check.kept);
  if (translated?.ok === false) return translated;
  const form = (path: string, edits: RequestForm['edits'], sent?: JsonObject): RequestForm => ({
    path,
    edits,
    ...(sent === undefined ? { layout } : written(sent)),
    output: operation.generates ? outputLimitOf(sent ?? value) : null,
  });
  const conversation = check.hasChoice ? conversationOf(translated?.value?.body ?? value) : null;
  const own = form(operation.upstreamPath, inspection.edits, translated?.value?.body);
  const { answer, keep, conversation: spoken } = translated?.value ?? {};
  const openai = answer === undefined ? own : { ...own, translated: { answer, keep } };
  const promptTokensEstimate =
    translated?.value?.promptTokensEstimate ?? inspection.promptTokensEstimate;
  const checked = {
    inspection: { ...inspection, promptTokensEstimate },
    conversation,
    forms: { openai },
    ...exactOf(check, inspection, value),
    content: requestContent(value, bytes.length, check.content ?? 'off'),
  };
  if (!check.apis.includes('anthropic')) return accepted(checked);
  if (dialect.direct !== undefined) {
    const sent = dialect.direct.request(operation, value, check.policy);
    const anthropic = form(sent.path, sent.edits, sent.body);
    return accepted({ ...checked, forms: { openai, anthropic } });
  }
  const read =
    answer === undefined
      ? dialect.foreign?.read(operation, value)
      : accepted({ answer, conversation: spoken });
  if (read?.ok === false) return accepted({ ...checked, unfit: { anthropic: read.refusal } });
  if (read?.value.conversation === undefined) return accepted(checked);
  const anthropic = {
    ...form(MESSAGES_PATH, {}, writeMessagesRequest(read.value.conversation)),
    translated: { answer: read.value.answer, keep },
  };
  return accepted({ ...checked, forms: { openai, anthropic } });
}

/** An answer that continues a kept one depends on more than the body. */
function exactOf(
  { dialect, operation, policy, kept }: BodyCheck,
  { stream }: Inspection,
  body: JsonObject,
): Pick<CheckedBody, 'exact'> {
  const { cache, allowFields = [] } = policy;
  if (cache === undefined || kept !== undefined || operation.answersBytes) return {};
  const exact = exactKey({ dialect, operation, stream, allowFields, body }, cache);
  return exact === null ? {} : { exact };
}

function written(body: JsonObject): Pick<RequestForm, 'bytes' | 'layout'> & { bytes: Uint8Array } {
  const bytes = Buffer.from(JSON.stringify(body));
  return { bytes, layout: layoutOf(bytes) };
}
