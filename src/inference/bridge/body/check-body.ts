/** Checks the body of an inference request. Pure, so that it can run in a thread (`body-worker.ts`). */
import { createHash } from 'node:crypto';
import { assert } from '../../../base/assert.ts';
import { accepted, type Checked, type Refusal } from '../../../base/http/refusal.ts';
import type { ContentMode } from '../../../base/text/content-mode.ts';
import { checkOutputNumbers, type OutputLimit, outputLimitOf } from '../budget/output-limit.ts';
import type { RequestContent } from '../content/content.ts';
import { requestContent } from '../content/request-content.ts';
import { writeMessagesRequest } from '../dialect/anthropic/write-request.ts';
import type { Inspection, KeepRequest, KeptContext, KeptNeeds, Operation } from '../dialect/dialect.ts';
import { DIALECTS } from '../dialect/dialects.ts';
import type { AnswerContext } from '../dialect/model.ts';
import {
  type JsonBody,
  type JsonLayout,
  type JsonLimits,
  type JsonObject,
  layoutOf,
  parseJsonBody,
} from '../json-body.ts';
import type { BridgePolicy } from '../policy.ts';
import { exactKey } from '../response-cache/exact-key.ts';
import { conversationOf } from '../routing/affinity.ts';
import type { UpstreamApi } from '../upstream/address.ts';
import { isList, readForm, type UploadFile, type UploadForm } from './upload-form.ts';

const MESSAGES_PATH = '/messages';

/** Plain data: it is sent to a thread. */
export interface BodyCheck {
  /** A name in `DIALECTS`. */
  readonly dialect: string;
  readonly operation: Operation;
  readonly policy: BridgePolicy;
  readonly limits: JsonLimits;
  readonly contentType?: string | undefined;
  readonly apis: readonly UpstreamApi[];
  /** True if there are several upstreams, so that a conversation should stay with its own. */
  readonly hasChoice: boolean;
  /** Which content of the request the log keeps. Default: none. */
  readonly content?: ContentMode;
  /** Kept responses that a first check asked for by `needs`. */
  readonly kept?: KeptContext;
}

export interface CheckedBody {
  readonly inspection: Inspection;
  /** Equal for all requests of a conversation; `null` if the request belongs to none. */
  readonly conversation: string | null;
  /** The request forms by upstream API. The request can't be sent to an API that is absent. */
  readonly forms: RequestForms;
  /** Why the request has no form for an upstream API, where a reason exists. */
  readonly unfit?: Readonly<Partial<Record<UpstreamApi, Refusal>>>;
  /** Key of the exact response cache. Absent if the request does not use the cache. */
  readonly exact?: string;
  readonly content?: RequestContent | undefined;
  /** Present if the forms are missing until these have been looked up. */
  readonly needs?: KeptNeeds;
}

export type RequestForms = Readonly<Partial<Record<UpstreamApi, RequestForm>>>;

export interface RequestForm {
  /** Path below the upstream's base. Never from the guest. */
  readonly path: string;
  /** Present for a form upload: the upstream body is written from it and the guest's body. */
  readonly upload?: UploadForm | undefined;
  /** Goes upstream in place of the guest's body. Default: the guest's body. */
  readonly bytes?: Uint8Array;
  readonly layout: JsonLayout;
  /** Top-level members to replace or add. */
  readonly edits: Readonly<Record<string, unknown>>;
  readonly output: OutputLimit | null;
  /** Present if the answer has to be translated. */
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
  const body = operation.audio === 'in' ? readUpload(bytes, check) : readJson(bytes, check);
  if (!body.ok) return body;
  const { value, layout, upload } = body.value;
  const inspected = dialect.inspect(operation, value, check.policy);
  if (!inspected.ok) return inspected;
  const inspection = inspected.value;
  const numbers = operation.generates ? checkOutputNumbers(value) : undefined;
  if (numbers?.ok === false) return numbers;
  const needs = check.kept === undefined ? dialect.translation?.needs?.(value) : undefined;
  if (needs !== undefined) return accepted({ inspection, forms: {}, needs, conversation: null });
  const translated = dialect.translation?.request(operation, value, check.kept);
  if (translated?.ok === false) return translated;
  const form = (path: string, edits: RequestForm['edits'], sent?: JsonObject): RequestForm => ({
    path,
    edits,
    ...(upload === undefined ? {} : { upload }),
    ...(sent === undefined ? { layout } : written(sent)),
    output: operation.generates ? outputLimitOf(sent ?? value) : null,
  });
  const hasConversation = check.hasChoice && upload === undefined;
  const conversation = hasConversation ? conversationOf(translated?.value?.body ?? value) : null;
  const own = form(operation.upstreamPath, inspection.edits, translated?.value?.body);
  const { answer, keep, conversation: spoken } = translated?.value ?? {};
  const openai = answer === undefined ? own : { ...own, translated: { answer, keep } };
  const promptTokensEstimate = translated?.value?.promptTokensEstimate ?? inspection.promptTokensEstimate;
  const checked = {
    inspection: { ...inspection, promptTokensEstimate, ...soundOf(upload) },
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
    answer === undefined ? dialect.foreign?.read(operation, value) : accepted({ answer, conversation: spoken });
  if (read?.ok === false) return accepted({ ...checked, unfit: { anthropic: read.refusal } });
  if (read?.value.conversation === undefined) return accepted(checked);
  const anthropic = {
    ...form(MESSAGES_PATH, {}, writeMessagesRequest(read.value.conversation)),
    translated: { answer: read.value.answer, keep },
  };
  return accepted({ ...checked, forms: { openai, anthropic } });
}

interface ReadBody extends JsonBody {
  readonly upload?: UploadForm;
}

const readJson = (bytes: Buffer, { limits }: BodyCheck): Checked<ReadBody> => parseJsonBody(bytes, limits);

function readUpload(bytes: Buffer, { contentType, content }: BodyCheck): Checked<ReadBody> {
  const read = readForm(bytes, contentType);
  if (!read.ok) return read;
  const { texts, file } = read.value;
  const members = new Map<string, unknown>();
  if (file !== undefined) members.set('file', describeFile(bytes, file, content ?? 'off'));
  for (const [name, text] of texts) {
    if (isList(name)) members.set(name, [...((members.get(name) as string[]) ?? []), text]);
    else members.set(name, text);
  }
  const { stream } = Object.fromEntries(members);
  // Servers accept many spellings; what passes must mean the same to all of them.
  if (stream === 'true' || stream === 'false') members.set('stream', stream === 'true');
  const value = Object.fromEntries(members);
  return accepted({ value, layout: NO_LAYOUT, upload: read.value });
}

/** MP3 speech has 16 kB a second, and OpenAI's models count 10 tokens a second. */
const SOUND_BYTES_PER_TOKEN = 1600;

function soundOf(upload: UploadForm | undefined): Pick<Inspection, 'soundTokensEstimate'> {
  if (upload?.file === undefined) return {};
  const { start, end } = upload.file;
  return { soundTokensEstimate: Math.ceil((end - start) / SOUND_BYTES_PER_TOKEN) };
}

const NO_LAYOUT: JsonLayout = { members: new Map(), end: 0 };

function describeFile(bytes: Buffer, { start, end, type }: UploadFile, content: ContentMode): string {
  const sound = bytes.subarray(start, end);
  const hash = (): string => createHash('sha256').update(sound).digest('hex');
  const more = content === 'off' ? '' : `, sha256 ${hash()}`;
  return `[${type ?? 'file'}: ${sound.length} bytes${more}]`;
}

/** An answer that continues a kept response depends on more than the body. */
function exactOf(
  { dialect, operation, policy, kept }: BodyCheck,
  { stream }: Inspection,
  body: JsonObject,
): Pick<CheckedBody, 'exact'> {
  const { cache, allowFields = [] } = policy;
  if (cache === undefined || kept !== undefined || operation.audio !== undefined) return {};
  const exact = exactKey({ dialect, operation, stream, allowFields, body }, cache);
  return exact === null ? {} : { exact };
}

function written(body: JsonObject): Pick<RequestForm, 'bytes' | 'layout'> & { bytes: Uint8Array } {
  const bytes = Buffer.from(JSON.stringify(body));
  return { bytes, layout: layoutOf(bytes) };
}
