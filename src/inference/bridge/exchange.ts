/**
 * One request of a guest, from its head to the end of its answer (io).
 *
 *     route ─► body ─► inspect ─► model ─► upstream ─► queue ─► send ─► first byte ─► relay ─► settle
 *                                            ▲── another route ───┘
 *                └── an abort (guest gone, port closed, timeout) ends it in every phase ────────────┘
 */

import type { IncomingMessage, ServerResponse } from 'node:http';
import { assert } from '../../base/assert.ts';
import { CodedError, describeError } from '../../base/errors.ts';
import { IdleTimer } from '../../base/idle-timer.ts';
import { orAborted } from '../../base/time-limit.ts';
import type { Span } from '../../base/trace/trace.ts';
import { Admission } from './admission.ts';
import { RequestBody } from './body/body.ts';
import type { CheckedBytes } from './body/body-checker.ts';
import type { RequestForms, TranslatedForm } from './body/check-body.ts';
import { checkRequest } from './body/check-request.ts';
import type { OutputLimit } from './budget/output-limit.ts';
import { callerKeys } from './caller-key.ts';
import type { Dialect, Inspection, Operation, Route } from './dialect/dialect.ts';
import { dialectOf } from './dialect/dialects.ts';
import { type Dispatched, dispatch, type ExchangeEnd, isWhole } from './dispatched.ts';
import { BridgeError } from './errors.ts';
import type { ExchangeContext } from './exchange-context.ts';
import { INTERNAL, refusalOfFailure } from './failure.ts';
import { checkTraces, isTraces, type TakeTraces, takenTraces } from './guest-traces.ts';
import { requestHeaders } from './headers.ts';
import { type KeptDraft, namedItems } from './kept-answers.ts';
import type { Turn } from './queue/upstream-queues.ts';
import { RequestHead } from './record/request-head.ts';
import { countEnd, settleSent } from './record/settle.ts';
import { accepted, type Checked, type Refusal } from './refusal.ts';
import { relayAnswer, relayRefusal } from './relay/relay-answer.ts';
import { type Translated, translatedBy } from './relay/relay-translated.ts';
import { Reply } from './reply.ts';
import {
  type Asked,
  formFor,
  formLengths,
  labelMembers,
  planFor,
  playedApi,
  type SentRequest,
  sentFor,
  servable,
} from './request-form.ts';
import {
  CACHE_HEADER,
  type CachedAnswer,
  type CacheUse,
  cacheUse,
  playCached,
} from './response-cache/response-cache.ts';
import type { SendAttempt } from './routing/dispatcher.ts';
import { playedModel, type ResolvedModel, useOf } from './routing/model-names.ts';
import type { Plan } from './routing/router.ts';
import { beginTrack, type Track, type UpstreamAnswer } from './tape/tape.ts';
import { beginTrace, traceHeaders } from './trace.ts';
import type { UpstreamApi, UpstreamTarget } from './upstream/address.ts';
import { serverMembers } from './upstream/server-members.ts';
import { NO_TOKENS } from './usage.ts';

export class Exchange {
  readonly #context: ExchangeContext;
  readonly #request: IncomingMessage;
  readonly #response: ServerResponse;
  readonly #dialect: Dialect;
  readonly #reply: Reply;
  readonly #aborter = new AbortController();
  readonly #body: RequestBody;
  readonly #head: RequestHead;
  #silence: IdleTimer | undefined;
  #target: UpstreamTarget | undefined;
  #draft: KeptDraft | undefined;
  #dispatched: Dispatched | undefined;
  #admission: Admission | undefined;

  constructor(context: ExchangeContext, request: IncomingMessage, response: ServerResponse) {
    const { memory, limits, sandboxId } = context;
    this.#context = context;
    this.#request = request;
    this.#response = response;
    this.#dialect = dialectOf(request.url ?? '', request.headers);
    this.#reply = new Reply(request, response, { ...context, dialect: this.#dialect });
    this.#body = new RequestBody(
      (bytes) => memory.take(sandboxId, bytes, limits.bodyTotalBytesMax),
      limits.bodyBytesMax,
    );
    this.#head = new RequestHead(this.#dialect.name, context);
  }

  /** Cancels the exchange in any phase. */
  cancel(reason: BridgeError): void {
    this.#aborter.abort(reason);
  }

  /** Answers without reading the request. */
  refuse(refusal: Refusal): void {
    this.#reply.fail(refusal);
    this.#count('refused');
  }

  /** Serves the request. Resolves once everything is released; never rejects. */
  async run(): Promise<ExchangeEnd> {
    const { clock, limits } = this.#context;
    const closed = new Promise<void>((resolve) => {
      this.#response.once('close', () => {
        if (this.#response.writableFinished || this.#reply.lingering) resolve();
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
    this.#silence?.stop();
    this.#reply.stop();
    this.#body.release();
    this.#draft?.end();
    this.#admission?.release();
    this.#settle();
    this.#count(end);
    return end;
  }

  #serve(): Promise<ExchangeEnd> {
    const { method = '', url = '' } = this.#request;
    const { takeTraces } = this.#context;
    if (takeTraces !== undefined && isTraces(method, url)) return this.#takeTraces(takeTraces);
    const route = this.#dialect.route(method, url);
    if (!route.ok) return Promise.resolve(this.#refused(route.refusal));
    switch (route.value.kind) {
      case 'inference':
        return this.#infer(route.value.operation);
      case 'count':
        return this.#countTokens(route.value.operation);
      case 'describe':
        return this.#describeModel(route.value.operation);
      case 'fixed':
        return Promise.resolve(this.#sendFixed(route.value));
      case 'kept':
        return Promise.resolve(this.#serveKept(route.value));
      default:
        return this.#listModels(route.value);
    }
  }

  #serveKept(route: Extract<Route, { kind: 'kept' }>): ExchangeEnd {
    const served = route.serve(this.#context.kept);
    if (!served.ok) return this.#refused(served.refusal);
    this.#reply.jsonText(200, served.value);
    return 'served';
  }

  async #takeTraces(take: TakeTraces): Promise<ExchangeEnd> {
    const { sandboxId, traceTime } = this.#context;
    const checked = checkTraces(this.#request.headers, traceTime.isOpen);
    if (!checked.ok) return this.#refused(checked.refusal);
    const received = await this.#body.read(this.#request, this.#aborter.signal);
    if (!received.ok) return this.#refused(received.refusal);
    const answer = traceTime.run(() => takenTraces(received.value, sandboxId, take));
    if (!answer.ok) return this.#refused(answer.refusal);
    this.#reply.start(200, answer.value.headers);
    this.#reply.end(answer.value.body);
    return 'served';
  }

  async #listModels(route: Extract<Route, { kind: 'models' | 'model' }>): Promise<ExchangeEnd> {
    const { models, policy } = this.#context;
    const { signal } = this.#aborter;
    this.#watchSilence();
    if (route.kind === 'models') {
      const visible = await models.visible(policy, signal);
      this.#reply.json(200, this.#dialect.modelList(visible));
      return 'served';
    }
    const entry = await models.entry(route.id, policy, signal);
    if (!entry.ok) return this.#refused(entry.refusal);
    this.#reply.json(200, this.#dialect.model(entry.value));
    return 'served';
  }

  /** Asks a model server that counts for the caller's API; estimates if there is none, or it may not be asked. */
  async #countTokens(operation: Operation): Promise<ExchangeEnd> {
    const received = await this.#body.read(this.#request, this.#aborter.signal);
    if (!received.ok) return this.#refused(received.refusal);
    const bodyEndAtMs = this.#context.clock.now();
    const { checked, bytes } = await this.#check(operation, received.value);
    if (!checked.ok) return this.#refused(checked.refusal);
    const { inspection, forms } = checked.value;
    const tokens = Math.max(1, inspection.promptTokensEstimate);
    const estimate = this.#dialect.translation?.tokenCount?.(tokens);
    const counted = await this.#counter(inspection, forms);
    if (counted !== null) {
      // It uses no tokens.
      const free = { ...inspection, promptTokensEstimate: 0, estimate };
      const asked = { ...checked.value, inspection: free };
      return await this.#deliver({ operation, bytes, bodyEndAtMs, ...asked, ...counted });
    }
    this.#reply.json(200, estimate);
    return 'served';
  }

  /** The model's first upstreams, if they count; null: they don't, or can't be asked now. */
  async #counter(inspection: Inspection, forms: RequestForms): Promise<ResolvedModel | null> {
    const { models, policy, apis, tape } = this.#context;
    const { direct } = this.#dialect;
    if (direct === undefined || forms[direct.api] === undefined) return null;
    // A cassette has answers of models only.
    if (tape !== undefined) return null;
    this.#watchSilence();
    const resolved = await models.resolve(inspection.model, policy, 'text', this.#aborter.signal);
    if (!resolved.ok) return null;
    const { model, plan } = resolved.value;
    const first = planFor({ ...plan, groups: plan.groups.slice(0, 1) }, apis, direct.api);
    return first.groups.length === 0 ? null : { model, plan: first };
  }

  async #describeModel(operation: Operation): Promise<ExchangeEnd> {
    const inspection = await this.#inspectBody(operation);
    if (!inspection.ok) return this.#refused(inspection.refusal);
    return this.#listModels({ kind: 'model', id: inspection.value.model ?? '' });
  }

  async #inspectBody(operation: Operation): Promise<Checked<Inspection>> {
    const received = await this.#body.read(this.#request, this.#aborter.signal);
    if (!received.ok) return received;
    const { checked } = await this.#check(operation, received.value);
    return checked.ok ? accepted(checked.value.inspection) : checked;
  }

  #sendFixed({ contentType, body }: Extract<Route, { kind: 'fixed' }>): ExchangeEnd {
    this.#reply.text(200, contentType, body);
    return 'served';
  }

  async #infer(operation: Operation): Promise<ExchangeEnd> {
    const { limits, clock } = this.#context;
    this.#head.begin(operation.name);
    const received = await this.#body.read(this.#request, this.#aborter.signal);
    if (!received.ok) return this.#refused(received.refusal);
    const bodyEndAtMs = clock.now();
    this.#context.metrics.countBody(this.#dialect.name, received.value.length);
    const { checked, bytes } = await this.#check(operation, received.value);
    if (!checked.ok) return this.#refused(checked.refusal);
    const { inspection, forms } = checked.value;
    const taped = beginTrack(this.#context.tape, this.#dialect, operation, inspection, bytes);
    if (!taped.ok) return this.#refused(taped.refusal);
    const track = taped.value;
    const written = formLengths(forms);
    if (written.length > 0) {
      const replaced = this.#body.replace(written);
      if (!replaced.ok) return this.#refused(replaced.refusal);
    }
    // Servers that can't stream transcripts answer with a whole one.
    const hasStream = inspection.stream && operation.audio === undefined;
    if (hasStream) this.#reply.keepAlive(limits.keepAliveIntervalMs);
    const { models, policy } = this.#context;
    this.#watchSilence();
    const use = useOf(operation);
    const played = track?.model ?? null;
    const resolved =
      played === null
        ? await models.resolve(inspection.model, policy, use, this.#aborter.signal)
        : playedModel(played, inspection.model, policy, use);
    if (!resolved.ok) {
      track?.refuse(resolved.refusal);
      return this.#refused(resolved.refusal);
    }
    const { model, plan } = resolved.value;
    const { idle } = inspection;
    if (idle !== undefined) {
      const options = { operation, model, clock };
      this.#reply.json(200, this.#dialect.translation?.idle?.(options, idle));
      return 'served';
    }
    const spoken = played === null ? this.#context.apis : playedApi(track);
    const usable = servable(plan, spoken, checked.value);
    if (!usable.ok) return this.#refused(usable.refusal);
    const asked = { operation, ...checked.value, bytes, bodyEndAtMs };
    const whole = { ...asked, model, plan: usable.value };
    const cached = cacheUse(this.#context, whole, this.#request.headers);
    if (cached !== undefined) this.#reply.header(CACHE_HEADER, cached.hit ? 'hit' : 'miss');
    if (cached?.hit !== undefined) return await this.#replay(whole, cached.hit);
    return await this.#deliver(whole, track, cached);
  }

  /** Answers from the cache: nothing waits, and no budget is used. */
  async #replay(asked: Asked, hit: CachedAnswer): Promise<ExchangeEnd> {
    const { operation, inspection, forms, model, bodyEndAtMs } = asked;
    const { api } = hit;
    const translated = this.#translated(asked, forms[api]?.translated, hit.model, undefined, api);
    this.#dispatched = dispatch({
      operation,
      span: this.#beginTrace(asked),
      inspection,
      api,
      translated,
      track: undefined,
      isCached: true,
      answeredBy: hit.model,
      upstream: hit.upstream,
      notes: this.#head.notes,
      model,
      bodyEndAtMs,
      sentAtMs: this.#context.clock.now(),
    });
    this.#body.release();
    const answer = playCached(hit);
    try {
      return await this.#relay(answer, hit.target, this.#dispatched);
    } finally {
      answer.destroy();
    }
  }

  #beginTrace({ operation, model, inspection: { stream } }: Asked): Span {
    const request = { operation: operation.name, model, stream };
    return beginTrace(this.#context, this.#request.headers['traceparent'], request);
  }

  async #deliver(asked: Asked, track?: Track, cached?: CacheUse): Promise<ExchangeEnd> {
    const { operation, inspection, forms, bodyEndAtMs, model, plan, conversation } = asked;
    const { clock, sandboxId } = this.#context;
    const output = forms.openai?.output ?? null;
    const admitted = await this.#reserve(inspection, output, plan);
    if (!admitted.ok) {
      if (inspection.estimate === undefined) return this.#refused(admitted.refusal);
      this.#reply.json(200, inspection.estimate);
      return 'served';
    }
    let span: Span | undefined;
    const labels = callerKeys(sandboxId, inspection.bound);
    const affinity = conversation === null ? null : `${sandboxId} ${conversation}`;
    return this.#forward(affinity, admitted.value, async (target, route, signal) => {
      const draft = cached?.draft(target, route);
      admitted.value.take(route);
      const api = (track?.model == null ? target.api : track.api) ?? 'openai';
      const form = formFor(forms, api, target);
      const cut = admitted.value.editsOf(form.output);
      const limited = { output: form.output, cut };
      const own = await serverMembers(this.#context, target, route.model, limited, signal);
      span ??= this.#beginTrace(asked);
      this.#dispatched = dispatch({
        operation,
        span,
        inspection,
        api,
        translated: this.#translated(asked, form.translated, route.model, track, api),
        track,
        draft,
        outputMax: Math.min(...Object.values(cut)),
        answeredBy: route.model,
        upstream: route.upstream,
        notes: this.#head.notes,
        model,
        bodyEndAtMs,
        sentAtMs: clock.now(),
      });
      const edits = { ...labelMembers(api, labels), ...cut, ...own };
      const sent = sentFor(asked, form, { ...edits, model: route.model });
      return this.#send(target, this.#dispatched, sent, signal);
    });
  }

  /** Waits for its part of the budget. No upstream is silent meanwhile. */
  async #reserve(
    { promptTokensEstimate, soundTokensEstimate }: Inspection,
    output: OutputLimit | null,
    plan: Plan,
  ): Promise<Checked<Admission>> {
    this.#silence?.stop();
    const request = { promptTokensEstimate, soundTokensEstimate, output, plan };
    const admitted = await Admission.reserve(this.#context, request, this.#aborter.signal);
    if (admitted.ok) this.#admission = admitted.value;
    this.#watchSilence();
    return admitted;
  }

  /** Waits for a slot of the upstream, which is not silent meanwhile. */
  async #awaitTurn(target: UpstreamTarget, admission: Admission): Promise<Checked<Turn>> {
    this.#silence?.stop();
    const turn = await admission.enter(target, this.#aborter.signal);
    if (turn.ok) this.#watchSilence();
    return turn;
  }

  async #check(operation: Operation, bytes: Buffer): Promise<CheckedBytes> {
    const { signal } = this.#aborter;
    const onCheck = (checking: Promise<unknown>): void => this.#body.keepUntilSettled(checking);
    const request = {
      dialect: this.#dialect,
      operation,
      bytes,
      contentType: this.#request.headers['content-type'],
      signal,
      onCheck,
      content: this.#head.mode,
    };
    const result = await checkRequest(this.#context, request);
    const { checked } = result;
    return checked.ok ? { ...result, checked: accepted(this.#head.take(checked.value)) } : result;
  }

  #translated(
    { operation, inspection: { stream, promptTokensEstimate } }: Asked,
    translated: TranslatedForm | undefined,
    model: string,
    track: Track | undefined,
    api: UpstreamApi,
  ): Translated | undefined {
    const translation = this.#dialect.translation ?? this.#dialect.foreign;
    if (translation === undefined || translated === undefined) return undefined;
    const { clock, policy, kept } = this.#context;
    const { showCacheHits = false } = policy;
    const { answer: context, keep } = translated;
    const request = { operation, clock, model, stream, promptTokensEstimate, showCacheHits };
    const keepBy = (id: string): KeptDraft['keep'] | undefined => {
      // An earlier attempt may have begun one.
      this.#draft?.end();
      this.#draft = keep && kept.begin(keep.previous, namedItems(keep.items, id));
      return this.#draft?.keep;
    };
    const made = translatedBy(translation, { ...request, context }, keepBy, api, track?.answerId);
    this.#reply.onFailure(made.writer.fail?.bind(made.writer));
    return made;
  }

  /** @param send called for each attempt, right before it */
  async #forward(affinity: string | null, admission: Admission, send: SendAttempt): Promise<ExchangeEnd> {
    let response: UpstreamAnswer | undefined;
    try {
      const delivered = await this.#context.dispatcher.dispatch({
        plan: admission.plan,
        affinity,
        signal: this.#aborter.signal,
        enter: (target) => {
          this.#target = target;
          return this.#awaitTurn(target, admission);
        },
        send,
      });
      if (!delivered.ok) {
        // The last attempt got no answer.
        if (this.#dispatched !== undefined) this.#dispatched.counts = () => NO_TOKENS;
        return this.#refused(delivered.refusal);
      }
      const dispatched = this.#dispatched;
      assert(dispatched !== undefined, 'an answer follows a request');
      const { track, answeredBy: model, api } = dispatched;
      const { target, response: received } = delivered.value;
      const { draft } = dispatched;
      response = track?.keep(received, { model, api, apiKey: target.apiKey }) ?? received;
      response = draft?.show(response) ?? response;
      this.#body.release();
      this.#silence?.touch();
      return await this.#relay(response, target, dispatched);
    } catch (error) {
      const isLost = error instanceof BridgeError && error.code === 'upstream_unreachable';
      const dispatched = this.#dispatched;
      if (dispatched !== undefined && (isLost || !dispatched.isSeen)) {
        dispatched.counts = () => NO_TOKENS;
        admission.release();
      }
      throw error;
    } finally {
      // A connection with unread data must not return to the pool.
      if (response?.readableEnded === false) response.destroy();
      // The guest may read the rest of its answer for long, which is no matter of the upstream.
      if (this.#dispatched === undefined) admission.release();
      else {
        const isLeft = this.#aborter.signal.aborted && isWhole(this.#dispatched);
        admission.end(this.#dispatched.counts(), isLeft);
      }
    }
  }

  async #send(
    target: UpstreamTarget,
    dispatched: Dispatched,
    sent: SentRequest,
    signal: AbortSignal,
  ): Promise<UpstreamAnswer> {
    const { span, track } = dispatched;
    const onConnected = (): void => {
      dispatched.isSeen = true;
    };
    const played = track?.play() ?? null;
    if (played !== null) {
      onConnected();
      return played;
    }
    const { client, limits, sandboxId } = this.#context;
    const headers = { ...requestHeaders(this.#request.headers, sandboxId, target), ...traceHeaders(span) };
    const request = { target, method: 'POST', ...sent, headers, limits, signal } as const;
    return await client.send({ ...request, onConnected });
  }

  async #relay(
    response: UpstreamAnswer,
    target: Pick<UpstreamTarget, 'name' | 'apiKey' | 'onDenied'>,
    dispatched: Dispatched,
  ): Promise<ExchangeEnd> {
    const { limits, clock, log, policy } = this.#context;
    const relay = {
      clock,
      limits,
      signal: this.#aborter.signal,
      onData: () => this.#silence?.touch(),
      isSlotWanted: () => this.#admission?.isSlotWanted ?? false,
      showCacheHits: policy.showCacheHits ?? false,
      apiKey: target.apiKey,
      onTokens: (events: number) => {
        dispatched.tokens.record(events, clock.now());
        this.#admission?.progress(dispatched.counts());
      },
      cancel: (reason: BridgeError) => this.cancel(reason),
    };
    const status = response.statusCode ?? 0;
    const isAnswer = status >= 200 && status < 300;
    if (isAnswer) await relayAnswer(response, this.#reply, dispatched, relay);
    else await relayRefusal(response, this.#reply, dispatched, relay, log, target);
    return 'served';
  }

  /** The upstream may still be starting; streaming requests get keep-alives meanwhile. */
  #watchSilence(): void {
    const { clock, limits } = this.#context;
    this.#silence = new IdleTimer(clock, limits.silenceTimeoutMs, () => {
      const message = `the model server was silent for ${limits.silenceTimeoutMs} ms`;
      this.cancel(new BridgeError('upstream_timeout', message));
    });
  }

  #refused(refusal: Refusal): ExchangeEnd {
    this.#body.release();
    this.#reply.fail(refusal);
    return 'refused';
  }

  #fail(error: unknown): ExchangeEnd {
    const { log, sandboxId } = this.#context;
    const code = error instanceof BridgeError ? error.code : undefined;
    if (code === 'cancelled' || code === 'suspended') {
      const complete = this.#dispatched?.complete() ?? false;
      if (this.#dispatched !== undefined) this.#dispatched.outcome = complete ? 'ok' : 'cancelled';
      if (code === 'cancelled') this.#reply.destroy();
      else this.#reply.fail(refusalOfFailure(error, undefined));
      return complete ? 'served' : 'cancelled';
    }
    // A bug in the bridge must not look like a fault of the upstream.
    const unexpected = !(error instanceof CodedError) && this.#target !== undefined;
    if (code === 'upstream_failed' && this.#dispatched !== undefined) {
      this.#dispatched.outcome = 'upstream-error';
    }
    const fields = { sandbox: sandboxId, error: describeError(error) };
    if (unexpected) log.error('an inference request failed', fields);
    else log.warn('no answer from the model server', fields);
    this.#reply.fail(unexpected ? INTERNAL : refusalOfFailure(error, this.#target));
    return 'failed';
  }

  #settle(): void {
    const cost = this.#admission?.costNanoDollars ?? null;
    if (this.#dispatched === undefined) return;
    settleSent(this.#context, this.#head, this.#dispatched, this.#reply, cost);
  }

  #count(end: ExchangeEnd): void {
    countEnd(this.#context, this.#head, this.#reply, end, this.#dispatched !== undefined);
  }
}
