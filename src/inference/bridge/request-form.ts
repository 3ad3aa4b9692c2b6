/** Selects the form of a request for each upstream of a plan, by its API. Pure. */

import { accepted, type Checked, refused } from '../../base/http/refusal.ts';
import { bufferOf } from './body/body-checker.ts';
import type { CheckedBody, RequestForm, RequestForms } from './body/check-body.ts';
import { writeForm } from './body/upload-form.ts';
import type { Operation } from './dialect/dialect.ts';
import { NotConnectedError } from './errors.ts';
import { editJson } from './json-body.ts';
import type { ResolvedModel } from './routing/model-names.ts';
import type { RouteTable } from './routing/route-table.ts';
import { type Plan, withRoutes } from './routing/router.ts';
import type { Track } from './tape/tape.ts';
import type { UpstreamApi, UpstreamTarget } from './upstream/address.ts';

/** A checked request with the model that will answer it. */
export interface Asked extends ResolvedModel, CheckedBody {
  readonly operation: Operation;
  readonly bytes: Buffer;
  readonly bodyEndAtMs: number;
}

export interface SpokenApis {
  readonly all: readonly UpstreamApi[];
  of(upstream: string): UpstreamApi;
}

export function spokenApis(table: RouteTable): SpokenApis {
  return {
    get all() {
      return [...new Set(table.upstreams.map(({ api = 'openai' }) => api))];
    },
    of: (name) => table.upstreams.find((one) => one.name === name)?.api ?? 'openai',
  };
}

/** A replayed answer has the form that its upstream gave. */
export function playedApi(track: Track | undefined): SpokenApis {
  const api = track?.api ?? 'openai';
  return { all: [api], of: () => api };
}

/** @throws NotConnectedError if `models.toml` has changed since the route was chosen */
export function formFor(forms: RequestForms, api: UpstreamApi, { name }: UpstreamTarget): RequestForm {
  const form = forms[api];
  if (form !== undefined) return form;
  throw new NotConnectedError('upstream_unreachable', `${name} now speaks another API`);
}

export function planFor(plan: Plan, { of }: SpokenApis, api: UpstreamApi): Plan {
  return withRoutes(plan, ({ upstream }) => of(upstream) === api);
}

/** The routes of a plan whose upstreams can get the request, or the reason why there are none. */
export function servable(
  plan: Plan,
  { of }: SpokenApis,
  { forms, unfit }: Pick<CheckedBody, 'forms' | 'unfit'>,
): Checked<Plan> {
  const usable = withRoutes(plan, ({ upstream }) => forms[of(upstream)] !== undefined);
  if (usable.groups.length > 0) return accepted(usable);
  const refusal = unfit?.anthropic;
  return refusal === undefined ? unspoken(plan.model) : { ok: false, refusal };
}

function unspoken(model: string): Checked<never> {
  const message =
    `The model ${JSON.stringify(model.slice(0, MODEL_CHARACTERS_SHOWN_MAX))} is served by Anthropic's API, which has ` +
    'only chat. Use that, or another model.';
  return refused(400, 'api_not_spoken', message, { param: 'model' });
}

const MODEL_CHARACTERS_SHOWN_MAX = 100;

export function labelMembers(
  api: UpstreamApi,
  labels: Readonly<Record<string, string>>,
): Readonly<Record<string, unknown>> {
  if (api === 'openai') return labels;
  const user = labels['user'] ?? labels['safety_identifier'];
  return user === undefined ? {} : { metadata: { user_id: user } };
}

export interface SentRequest {
  readonly path: string;
  readonly body: readonly Buffer[];
  /** Default: JSON. */
  readonly contentType?: string;
}

/**
 * @param edits added to those of the form, with the upstream's name for the model. A multipart form uses only the model
 */
export function sentFor(
  asked: Pick<Asked, 'inspection' | 'bytes'>,
  form: RequestForm,
  edits: { readonly model: string } & Readonly<Record<string, unknown>>,
): SentRequest {
  const { path, upload } = form;
  if (upload === undefined) return { path, body: jsonFor(asked, form, edits) };
  const texts = upload.texts.filter(([name]) => name !== 'model');
  const named = { ...upload, texts: [['model', edits.model] as const, ...texts] };
  return { path, ...writeForm(named, asked.bytes) };
}

function jsonFor(
  { inspection, bytes }: Pick<Asked, 'inspection' | 'bytes'>,
  form: RequestForm,
  { model, ...edits }: { readonly model: string } & Readonly<Record<string, unknown>>,
): readonly Buffer[] {
  const sent = form.bytes === undefined ? bytes : bufferOf(form.bytes);
  const named = inspection.model === model ? {} : { model };
  return editJson(sent, form.layout, { ...form.edits, ...edits, ...named });
}

export function formLengths(forms: RequestForms): readonly number[] {
  return Object.values(forms).flatMap(({ bytes }) => (bytes === undefined ? [] : bytes.byteLength));
}
