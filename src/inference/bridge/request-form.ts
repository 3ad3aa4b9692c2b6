/** Which form of a request each upstream of a plan gets, by the API that it speaks. Pure. */

import { bufferOf } from './body/body-checker.ts';
import type { CheckedBody, RequestForm, RequestForms } from './body/check-body.ts';
import { writeForm } from './body/upload-form.ts';
import type { Operation } from './dialect/dialect.ts';
import { NotConnectedError } from './errors.ts';
import { editJson } from './json-body.ts';
import { accepted, type Checked, refused } from './refusal.ts';
import type { ResolvedModel } from './routing/model-names.ts';
import type { RouteTable } from './routing/route-table.ts';
import { type Plan, withRoutes } from './routing/router.ts';
import type { Track } from './tape/tape.ts';
import type { UpstreamApi, UpstreamTarget } from './upstream/address.ts';

/** A request that was checked, and the model that will answer it. */
export interface Asked extends ResolvedModel, CheckedBody {
  readonly operation: Operation;
  /** The guest's. */
  readonly bytes: Buffer;
  readonly bodyEndAtMs: number;
}

/** The APIs of a host's upstreams. */
export interface SpokenApis {
  readonly all: readonly UpstreamApi[];
  /** By the upstream's name. */
  of(upstream: string): UpstreamApi;
}

/** @param table may change */
export function spokenApis(table: RouteTable): SpokenApis {
  return {
    get all() {
      return [...new Set(table.upstreams.map(({ api = 'openai' }) => api))];
    },
    of: (name) => table.upstreams.find((one) => one.name === name)?.api ?? 'openai',
  };
}

/** An answer that is played is in the form that its upstream gave. */
export function playedApi(track: Track | undefined): SpokenApis {
  const api = track?.api ?? 'openai';
  return { all: [api], of: () => api };
}

/** @throws NotConnectedError: `models.toml` has changed since the route was chosen */
export function formFor(forms: RequestForms, api: UpstreamApi, { name }: UpstreamTarget): RequestForm {
  const form = forms[api];
  if (form !== undefined) return form;
  throw new NotConnectedError('upstream_unreachable', `${name} now speaks another API`);
}

/** The routes of a plan to upstreams of this API. */
export function planFor(plan: Plan, { of }: SpokenApis, api: UpstreamApi): Plan {
  return withRoutes(plan, ({ upstream }) => of(upstream) === api);
}

/** The routes of a plan whose upstreams can get the request, or why there are none. */
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

/** Labels bound to the sandbox, as members of a request of this API. */
export function labelMembers(
  api: UpstreamApi,
  labels: Readonly<Record<string, string>>,
): Readonly<Record<string, unknown>> {
  if (api === 'openai') return labels;
  const user = labels['user'] ?? labels['safety_identifier'];
  return user === undefined ? {} : { metadata: { user_id: user } };
}

/** What goes upstream. */
export interface SentRequest {
  readonly path: string;
  readonly body: readonly Buffer[];
  /** Absent: JSON. */
  readonly contentType?: string;
}

/** @param edits beside those of the form, with the upstream's name of the model. A form of parts has none of the others */
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

/** Lengths of the forms that are not the body itself, in bytes. */
export function formLengths(forms: RequestForms): readonly number[] {
  return Object.values(forms).flatMap(({ bytes }) => (bytes === undefined ? [] : bytes.byteLength));
}
