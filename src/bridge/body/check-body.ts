/** Checks the body of an inference request. Pure, so that it can run in a thread (`body-worker.ts`). */
import { assert } from '../../base/assert.ts';
import { type OutputLimit, outputLimitOf } from '../budget/output-limit.ts';
import type {
  Inspection,
  KeepRequest,
  KeptContext,
  KeptNeeds,
  Operation,
  TranslatedRequest,
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
import { accepted, type Checked } from '../refusal.ts';
import { conversationOf } from '../routing/affinity.ts';

/** Plain data: it is sent to a thread. */
export interface BodyCheck {
  /** A name in `DIALECTS`. */
  readonly dialect: string;
  readonly operation: Operation;
  readonly policy: BridgePolicy;
  readonly limits: JsonLimits;
  /** What a check without it found to be needed. */
  readonly kept?: KeptContext;
}

export interface CheckedBody {
  readonly inspection: Inspection;
  /** For `editJson`. */
  readonly layout: JsonLayout;
  /** Null: the operation generates nothing. */
  readonly output: OutputLimit | null;
  /** The same for all requests of a conversation; null: it has none. */
  readonly conversation: string | null;
  /** Present if the upstream speaks another dialect. */
  readonly translated?: TranslatedBody;
  /** In place of `translated`: to be looked up first. */
  readonly needs?: KeptNeeds;
}

export interface TranslatedBody {
  /** Goes upstream in place of the body; `layout` is its layout. */
  readonly bytes: Uint8Array;
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
  if (needs !== undefined)
    return accepted({ inspection, layout, needs, output: null, conversation: null });
  const translated = dialect.translation?.request(operation, value, check.kept);
  if (translated?.ok === false) return translated;
  const limitOf = (sent: JsonObject): OutputLimit | null =>
    operation.generates ? outputLimitOf(sent) : null;
  if (translated?.value === undefined) {
    const conversation = conversationOf(value);
    return accepted({ inspection, layout, output: limitOf(value), conversation });
  }
  const output = limitOf(translated.value.body);
  const conversation = conversationOf(translated.value.body);
  return accepted({ ...withTranslation(inspection, translated.value), output, conversation });
}

function withTranslation(
  checked: Inspection,
  translated: TranslatedRequest,
): Pick<CheckedBody, 'inspection' | 'layout' | 'translated'> {
  const { body, answer, promptTokensEstimate, keep } = translated;
  const inspection = { ...checked, promptTokensEstimate };
  const bytes = Buffer.from(JSON.stringify(body));
  return { inspection, layout: layoutOf(bytes), translated: { bytes, answer, keep } };
}
