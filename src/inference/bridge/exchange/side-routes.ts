/** Requests besides inference: models, counts of tokens, kept answers, traces. */

import { accepted, type Checked } from '../../../base/http/refusal.ts';
import type { RequestForms } from '../body/check-body.ts';
import type { Inspection, Operation, Route } from '../dialect/dialect.ts';
import type { ExchangeEnd } from '../dispatched.ts';
import { checkTraces, type TakeTraces, takenTraces } from '../guest-traces.ts';
import { planFor } from '../request-form.ts';
import type { ResolvedModel } from '../routing/model-names.ts';
import type { Delivery } from './delivery.ts';
import { checkBody, type ExchangeParts, readBody, refuse } from './parts.ts';

export function serveKept(parts: ExchangeParts, route: Extract<Route, { kind: 'kept' }>): ExchangeEnd {
  const served = route.serve(parts.context.kept);
  if (!served.ok) return refuse(parts, served.refusal);
  parts.reply.jsonText(200, served.value);
  return 'served';
}

export async function takeGuestTraces(parts: ExchangeParts, take: TakeTraces): Promise<ExchangeEnd> {
  const { sandboxId, traceTime } = parts.context;
  const checked = checkTraces(parts.request.headers, traceTime.isOpen);
  if (!checked.ok) return refuse(parts, checked.refusal);
  const received = await readBody(parts);
  if (!received.ok) return refuse(parts, received.refusal);
  const answer = traceTime.run(() => takenTraces(received.value, sandboxId, take));
  if (!answer.ok) return refuse(parts, answer.refusal);
  parts.reply.start(200, answer.value.headers);
  parts.reply.end(answer.value.body);
  return 'served';
}

export async function listModels(
  parts: ExchangeParts,
  route: Extract<Route, { kind: 'models' | 'model' }>,
): Promise<ExchangeEnd> {
  const { models, policy } = parts.context;
  const { signal } = parts;
  parts.silence.watch();
  if (route.kind === 'models') {
    const visible = await models.visible(policy, signal);
    parts.reply.json(200, parts.dialect.modelList(visible));
    return 'served';
  }
  const entry = await models.entry(route.id, policy, signal);
  if (!entry.ok) return refuse(parts, entry.refusal);
  parts.reply.json(200, parts.dialect.model(entry.value));
  return 'served';
}

/** Asks a model server that counts for the caller's API; estimates if there is none, or it may not be asked. */
export async function countTokens(
  parts: ExchangeParts,
  operation: Operation,
  delivery: Delivery,
): Promise<ExchangeEnd> {
  const received = await readBody(parts);
  if (!received.ok) return refuse(parts, received.refusal);
  const bodyEndAtMs = parts.context.clock.now();
  const { checked, bytes } = await checkBody(parts, operation, received.value);
  if (!checked.ok) return refuse(parts, checked.refusal);
  const { inspection, forms } = checked.value;
  const tokens = Math.max(1, inspection.promptTokensEstimate);
  const estimate = parts.dialect.translation?.tokenCount?.(tokens);
  const counted = await counter(parts, inspection, forms);
  if (counted !== null) {
    // It uses no tokens.
    const free = { ...inspection, promptTokensEstimate: 0, estimate };
    const asked = { ...checked.value, inspection: free };
    return await delivery.deliver({ operation, bytes, bodyEndAtMs, ...asked, ...counted });
  }
  parts.reply.json(200, estimate);
  return 'served';
}

/** The model's first upstreams, if they count; null: they don't, or can't be asked now. */
async function counter(
  parts: ExchangeParts,
  inspection: Inspection,
  forms: RequestForms,
): Promise<ResolvedModel | null> {
  const { models, policy, apis, tape } = parts.context;
  const { direct } = parts.dialect;
  if (direct === undefined || forms[direct.api] === undefined) return null;
  // A cassette has answers of models only.
  if (tape !== undefined) return null;
  parts.silence.watch();
  const resolved = await models.resolve(inspection.model, policy, 'text', parts.signal);
  if (!resolved.ok) return null;
  const { model, plan } = resolved.value;
  const first = planFor({ ...plan, groups: plan.groups.slice(0, 1) }, apis, direct.api);
  return first.groups.length === 0 ? null : { model, plan: first };
}

export async function describeModel(parts: ExchangeParts, operation: Operation): Promise<ExchangeEnd> {
  const inspection = await inspectBody(parts, operation);
  if (!inspection.ok) return refuse(parts, inspection.refusal);
  return listModels(parts, { kind: 'model', id: inspection.value.model ?? '' });
}

async function inspectBody(parts: ExchangeParts, operation: Operation): Promise<Checked<Inspection>> {
  const received = await readBody(parts);
  if (!received.ok) return received;
  const { checked } = await checkBody(parts, operation, received.value);
  return checked.ok ? accepted(checked.value.inspection) : checked;
}

export function sendFixed(parts: ExchangeParts, { contentType, body }: Extract<Route, { kind: 'fixed' }>): ExchangeEnd {
  parts.reply.text(200, contentType, body);
  return 'served';
}
