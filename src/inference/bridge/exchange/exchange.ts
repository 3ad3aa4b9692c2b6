/**
 * One request of a guest, from its head to the end of its answer (io).
 *
 *     route ─► body ─► inspect ─► model ─► upstream ─► queue ─► send ─► first byte ─► relay ─► settle
 *                                            ▲── another route ───┘
 *                └── an abort (guest gone, port closed, timeout) ends it in every phase ────────────┘
 */

import type { IncomingMessage, ServerResponse } from 'node:http';
import { CodedError, describeError } from '../../../base/errors.ts';
import type { Refusal } from '../../../base/http/refusal.ts';
import { orAborted } from '../../../base/time-limit.ts';
import { RequestBody } from '../body/body.ts';
import type { Operation } from '../dialect/dialect.ts';
import { dialectOf } from '../dialect/dialects.ts';
import type { ExchangeEnd } from '../dispatched.ts';
import { BridgeError } from '../errors.ts';
import type { ExchangeContext } from '../exchange-context.ts';
import { INTERNAL, refusalOfFailure } from '../failure.ts';
import { isTraces } from '../guest-traces.ts';
import { RequestHead } from '../record/request-head.ts';
import { countEnd, settleSent } from '../record/settle.ts';
import { Reply } from '../reply.ts';
import { formLengths, playedApi, servable } from '../request-form.ts';
import { CACHE_HEADER, cacheUse } from '../response-cache/response-cache.ts';
import { playedModel, useOf } from '../routing/model-names.ts';
import { beginTrack } from '../tape/tape.ts';
import { Delivery } from './delivery.ts';
import { checkBody, type ExchangeParts, readBody, refuse, Silence } from './parts.ts';
import { admissionOf, dispatchedOf, targetOf } from './phase.ts';
import { countTokens, describeModel, listModels, sendFixed, serveKept, takeGuestTraces } from './side-routes.ts';

export class Exchange {
  readonly #parts: ExchangeParts;
  readonly #response: ServerResponse;
  readonly #aborter = new AbortController();
  readonly #delivery: Delivery;

  constructor(context: ExchangeContext, request: IncomingMessage, response: ServerResponse) {
    const { memory, limits, sandboxId } = context;
    const dialect = dialectOf(request.url ?? '', request.headers);
    const cancel = (reason: BridgeError): void => this.cancel(reason);
    this.#response = response;
    this.#parts = {
      context,
      request,
      dialect,
      reply: new Reply(request, response, { ...context, dialect }),
      body: new RequestBody((bytes) => memory.take(sandboxId, bytes, limits.bodyTotalBytesMax), limits.bodyBytesMax),
      head: new RequestHead(dialect.name, context),
      silence: new Silence(context, cancel),
      signal: this.#aborter.signal,
      cancel,
    };
    this.#delivery = new Delivery(this.#parts);
  }

  /** Cancels the exchange in any phase. */
  cancel(reason: BridgeError): void {
    this.#aborter.abort(reason);
  }

  /** Answers without reading the request. */
  refuse(refusal: Refusal): void {
    this.#parts.reply.fail(refusal);
    this.#count('refused');
  }

  /** Serves the request. Resolves once everything is released; never rejects. */
  async run(): Promise<ExchangeEnd> {
    const { context, reply, body, silence } = this.#parts;
    const { clock, limits } = context;
    const closed = new Promise<void>((resolve) => {
      this.#response.once('close', () => {
        if (this.#response.writableFinished || reply.lingering) resolve();
        else this.cancel(new BridgeError('cancelled', 'the guest closed its connection'));
      });
    });
    const stopTotal = clock.after(limits.totalTimeoutMs, () => {
      const message = `the request took longer than ${limits.totalTimeoutMs} ms`;
      this.cancel(new BridgeError('upstream_timeout', message));
    });
    let end: ExchangeEnd;
    try {
      end = await this.#serve();
      const stopStall = clock.after(limits.stallTimeoutMs, () => {
        this.cancel(new BridgeError('cancelled', 'the guest does not read its answer'));
      });
      await orAborted(closed, this.#aborter.signal).finally(stopStall);
    } catch (error) {
      end = this.#fail(error);
    }
    stopTotal();
    silence.stop();
    reply.stop();
    body.release();
    this.#delivery.release();
    this.#settle();
    this.#count(end);
    return end;
  }

  async #serve(): Promise<ExchangeEnd> {
    const parts = this.#parts;
    const { method = '', url = '' } = parts.request;
    const { takeTraces } = parts.context;
    if (takeTraces !== undefined && isTraces(method, url)) return await takeGuestTraces(parts, takeTraces);
    const route = parts.dialect.route(method, url);
    if (!route.ok) return refuse(parts, route.refusal);
    switch (route.value.kind) {
      case 'inference':
        return await this.#infer(route.value.operation);
      case 'count':
        return await countTokens(parts, route.value.operation, this.#delivery);
      case 'describe':
        return await describeModel(parts, route.value.operation);
      case 'fixed':
        return sendFixed(parts, route.value);
      case 'kept':
        return serveKept(parts, route.value);
      default:
        return await listModels(parts, route.value);
    }
  }

  async #infer(operation: Operation): Promise<ExchangeEnd> {
    const parts = this.#parts;
    const { context, request, dialect, reply, body, head, silence, signal } = parts;
    const { limits, clock, models, policy } = context;
    head.begin(operation.name);
    const received = await readBody(parts);
    if (!received.ok) return refuse(parts, received.refusal);
    const bodyEndAtMs = clock.now();
    context.metrics.countBody(dialect.name, received.value.length);
    const { checked, bytes } = await checkBody(parts, operation, received.value);
    if (!checked.ok) return refuse(parts, checked.refusal);
    const { inspection, forms } = checked.value;
    const taped = beginTrack(context.tape, dialect, operation, inspection, bytes);
    if (!taped.ok) return refuse(parts, taped.refusal);
    const track = taped.value;
    const written = formLengths(forms);
    if (written.length > 0) {
      const replaced = body.replace(written);
      if (!replaced.ok) return refuse(parts, replaced.refusal);
    }
    // Servers that can't stream transcripts answer with a whole one.
    const hasStream = inspection.stream && operation.audio === undefined;
    if (hasStream) reply.keepAlive(limits.keepAliveIntervalMs);
    silence.watch();
    const use = useOf(operation);
    const played = track?.model ?? null;
    const resolved =
      played === null
        ? await models.resolve(inspection.model, policy, use, signal)
        : playedModel(played, inspection.model, policy, use);
    if (!resolved.ok) {
      track?.refuse(resolved.refusal);
      return refuse(parts, resolved.refusal);
    }
    const { model, plan } = resolved.value;
    const { idle } = inspection;
    if (idle !== undefined) {
      const options = { operation, model, clock };
      reply.json(200, dialect.translation?.idle?.(options, idle));
      return 'served';
    }
    const spoken = played === null ? context.apis : playedApi(track);
    const usable = servable(plan, spoken, checked.value);
    if (!usable.ok) return refuse(parts, usable.refusal);
    const asked = { operation, ...checked.value, bytes, bodyEndAtMs };
    const whole = { ...asked, model, plan: usable.value };
    const cached = cacheUse(context, whole, request.headers);
    if (cached !== undefined) reply.header(CACHE_HEADER, cached.hit ? 'hit' : 'miss');
    if (cached?.hit !== undefined) return await this.#delivery.replay(whole, cached.hit);
    return await this.#delivery.deliver(whole, track, cached);
  }

  #fail(error: unknown): ExchangeEnd {
    const { context, reply } = this.#parts;
    const dispatched = dispatchedOf(this.#delivery.phase);
    const target = targetOf(this.#delivery.phase);
    const code = error instanceof BridgeError ? error.code : undefined;
    if (code === 'cancelled' || code === 'suspended') {
      const complete = dispatched?.complete() ?? false;
      if (dispatched !== undefined) dispatched.outcome = complete ? 'ok' : 'cancelled';
      if (code === 'cancelled') reply.destroy();
      else reply.fail(refusalOfFailure(error));
      return complete ? 'served' : 'cancelled';
    }
    // A bug in the bridge must not look like a fault of the upstream.
    const unexpected = !(error instanceof CodedError) && target !== undefined;
    if (code === 'upstream_failed' && dispatched !== undefined) dispatched.outcome = 'upstream-error';
    const fields = { sandbox: context.sandboxId, upstream: target?.name ?? null, error: describeError(error) };
    if (unexpected) context.log.error('an inference request failed', fields);
    else context.log.warn('no answer from the model server', fields);
    reply.fail(unexpected ? INTERNAL : refusalOfFailure(error));
    return 'failed';
  }

  #settle(): void {
    const { context, head, reply } = this.#parts;
    const { phase } = this.#delivery;
    const dispatched = dispatchedOf(phase);
    if (dispatched === undefined) return;
    settleSent(context, head, dispatched, reply, admissionOf(phase)?.costNanoDollars ?? null);
  }

  #count(end: ExchangeEnd): void {
    const { context, head, reply } = this.#parts;
    countEnd(context, head, reply, end, dispatchedOf(this.#delivery.phase) !== undefined);
  }
}
