/**
 * One request to a model, from its admission to the end of the answer (io).
 *
 *     reserve ─► queue ─► send ─► first byte ─► relay
 *                  ▲── another route ───┘
 */

import { assert } from '../../../base/assert.ts';
import type { Checked } from '../../../base/http/refusal.ts';
import type { Span } from '../../../base/trace/trace.ts';
import { Admission } from '../admission.ts';
import type { TranslatedForm } from '../body/check-body.ts';
import type { OutputLimit } from '../budget/output-limit.ts';
import { callerKeys } from '../caller-key.ts';
import type { Inspection } from '../dialect/dialect.ts';
import { type Dispatched, dispatch, type ExchangeEnd, isWhole } from '../dispatched.ts';
import { BridgeError } from '../errors.ts';
import { requestHeaders } from '../headers.ts';
import { type KeptDraft, namedItems } from '../kept-answers.ts';
import type { Turn } from '../queue/upstream-queues.ts';
import { relayAnswer, relayRefusal } from '../relay/relay-answer.ts';
import { type Translated, translatedBy } from '../relay/relay-translated.ts';
import { type Asked, formFor, labelMembers, type SentRequest, sentFor } from '../request-form.ts';
import { type CachedAnswer, type CacheUse, playCached } from '../response-cache/response-cache.ts';
import type { SendAttempt } from '../routing/dispatcher.ts';
import type { Plan } from '../routing/router.ts';
import type { Track, UpstreamAnswer } from '../tape/tape.ts';
import { beginTrace, traceHeaders } from '../trace.ts';
import type { UpstreamApi, UpstreamTarget } from '../upstream/address.ts';
import { serverMembers } from '../upstream/server-members.ts';
import { NO_TOKENS } from '../usage.ts';
import { type ExchangeParts, refuse } from './parts.ts';
import { admissionOf, dispatchedOf, type Phase, targetOf } from './phase.ts';

export class Delivery {
  readonly #parts: ExchangeParts;
  #phase: Phase = { kind: 'reading' };
  /** The answer that is kept once it is whole. */
  #draft: KeptDraft | undefined;

  constructor(parts: ExchangeParts) {
    this.#parts = parts;
  }

  get phase(): Phase {
    return this.#phase;
  }

  /** Gives up a kept answer that is not whole, and what is left of the admission. */
  release(): void {
    this.#draft?.end();
    admissionOf(this.#phase)?.release();
  }

  /** Answers from the cache: nothing waits, and no budget is used. */
  async replay(asked: Asked, hit: CachedAnswer): Promise<ExchangeEnd> {
    const { operation, inspection, forms, model, bodyEndAtMs } = asked;
    const { api } = hit;
    const translated = this.#translated(asked, forms[api]?.translated, hit.model, undefined, api);
    const dispatched = dispatch({
      operation,
      span: this.#beginTrace(asked),
      inspection,
      api,
      translated,
      track: undefined,
      isCached: true,
      answeredBy: hit.model,
      upstream: hit.upstream,
      notes: this.#parts.head.notes,
      model,
      bodyEndAtMs,
      sentAtMs: this.#parts.context.clock.now(),
    });
    this.#phase = { kind: 'cached', dispatched };
    this.#parts.body.release();
    const answer = playCached(hit);
    return await this.#relay(answer, hit.target, dispatched).finally(() => answer.destroy());
  }

  #beginTrace({ operation, model, inspection: { stream } }: Asked): Span {
    const request = { operation: operation.name, model, stream };
    return beginTrace(this.#parts.context, this.#parts.request.headers['traceparent'], request);
  }

  async deliver(asked: Asked, track?: Track, cached?: CacheUse): Promise<ExchangeEnd> {
    const { operation, inspection, forms, bodyEndAtMs, model, plan, conversation } = asked;
    const { clock, sandboxId } = this.#parts.context;
    const output = forms.openai?.output ?? null;
    const admitted = await this.#reserve(inspection, output, plan);
    if (!admitted.ok) {
      if (inspection.estimate === undefined) return refuse(this.#parts, admitted.refusal);
      this.#parts.reply.json(200, inspection.estimate);
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
      const own = await serverMembers(this.#parts.context, target, route.model, limited, signal);
      span ??= this.#beginTrace(asked);
      const dispatched = dispatch({
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
        notes: this.#parts.head.notes,
        model,
        bodyEndAtMs,
        sentAtMs: clock.now(),
      });
      // Its key may be newer than that of the upstream whose slot this is.
      const entered = targetOf(this.#phase) ?? target;
      this.#phase = { kind: 'sent', admission: admitted.value, target: entered, dispatched };
      const edits = { ...labelMembers(api, labels), ...cut, ...own };
      const sent = sentFor(asked, form, { ...edits, model: route.model });
      return this.#send(target, dispatched, sent, signal);
    });
  }

  /** Waits for its part of the budget. No upstream is silent meanwhile. */
  async #reserve(
    { promptTokensEstimate, soundTokensEstimate }: Inspection,
    output: OutputLimit | null,
    plan: Plan,
  ): Promise<Checked<Admission>> {
    this.#parts.silence.stop();
    const request = { promptTokensEstimate, soundTokensEstimate, output, plan };
    const admitted = await Admission.reserve(this.#parts.context, request, this.#parts.signal);
    if (admitted.ok) this.#phase = { kind: 'admitted', admission: admitted.value };
    this.#parts.silence.watch();
    return admitted;
  }

  #enter(admission: Admission, target: UpstreamTarget): void {
    const dispatched = dispatchedOf(this.#phase);
    this.#phase =
      dispatched === undefined
        ? { kind: 'queued', admission, target }
        : { kind: 'sent', admission, target, dispatched };
  }

  /** Waits for a slot of the upstream, which is not silent meanwhile. */
  async #awaitTurn(target: UpstreamTarget, admission: Admission): Promise<Checked<Turn>> {
    this.#parts.silence.stop();
    const turn = await admission.enter(target, this.#parts.signal);
    if (turn.ok) this.#parts.silence.watch();
    return turn;
  }

  #translated(
    { operation, inspection: { stream, promptTokensEstimate } }: Asked,
    translated: TranslatedForm | undefined,
    model: string,
    track: Track | undefined,
    api: UpstreamApi,
  ): Translated | undefined {
    const translation = this.#parts.dialect.translation ?? this.#parts.dialect.foreign;
    if (translation === undefined || translated === undefined) return undefined;
    const { clock, policy, kept } = this.#parts.context;
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
    this.#parts.reply.onFailure(made.writer.fail?.bind(made.writer));
    return made;
  }

  /** @param send called for each attempt, right before it */
  async #forward(affinity: string | null, admission: Admission, send: SendAttempt): Promise<ExchangeEnd> {
    let response: UpstreamAnswer | undefined;
    try {
      const delivered = await this.#parts.context.dispatcher.dispatch({
        plan: admission.plan,
        affinity,
        signal: this.#parts.signal,
        enter: (target) => {
          this.#enter(admission, target);
          return this.#awaitTurn(target, admission);
        },
        send,
      });
      if (!delivered.ok) {
        // The last attempt got no answer.
        const last = dispatchedOf(this.#phase);
        if (last !== undefined) last.counts = () => NO_TOKENS;
        return refuse(this.#parts, delivered.refusal);
      }
      const dispatched = dispatchedOf(this.#phase);
      assert(dispatched !== undefined, 'an answer follows a request');
      const { track, answeredBy: model, api } = dispatched;
      const { target, response: received } = delivered.value;
      const { draft } = dispatched;
      response = track?.keep(received, { model, api, apiKey: target.apiKey }) ?? received;
      response = draft?.show(response) ?? response;
      this.#parts.body.release();
      this.#parts.silence.touch();
      return await this.#relay(response, target, dispatched);
    } catch (error) {
      const isLost = error instanceof BridgeError && error.code === 'upstream_unreachable';
      const dispatched = dispatchedOf(this.#phase);
      if (dispatched !== undefined && (isLost || !dispatched.isSeen)) {
        dispatched.counts = () => NO_TOKENS;
        admission.release();
      }
      throw error;
    } finally {
      // A connection with unread data must not return to the pool.
      if (response?.readableEnded === false) response.destroy();
      // The guest may read the rest of its answer for long, which is no matter of the upstream.
      const dispatched = dispatchedOf(this.#phase);
      if (dispatched === undefined) admission.release();
      else admission.end(dispatched.counts(), this.#parts.signal.aborted && isWhole(dispatched));
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
    const { client, limits, sandboxId } = this.#parts.context;
    const headers = { ...requestHeaders(this.#parts.request.headers, sandboxId, target), ...traceHeaders(span) };
    const request = { target, method: 'POST', ...sent, headers, limits, signal } as const;
    return await client.send({ ...request, onConnected });
  }

  async #relay(
    response: UpstreamAnswer,
    target: Pick<UpstreamTarget, 'name' | 'apiKey' | 'onDenied'>,
    dispatched: Dispatched,
  ): Promise<ExchangeEnd> {
    const { limits, clock, log, policy } = this.#parts.context;
    const relay = {
      clock,
      limits,
      signal: this.#parts.signal,
      onData: () => this.#parts.silence.touch(),
      isSlotWanted: () => admissionOf(this.#phase)?.isSlotWanted ?? false,
      showCacheHits: policy.showCacheHits ?? false,
      apiKey: target.apiKey,
      onTokens: (events: number) => {
        dispatched.tokens.record(events, clock.now());
        admissionOf(this.#phase)?.progress(dispatched.counts());
      },
      cancel: (reason: BridgeError) => this.#parts.cancel(reason),
    };
    const status = response.statusCode ?? 0;
    const isAnswer = status >= 200 && status < 300;
    if (isAnswer) await relayAnswer(response, this.#parts.reply, dispatched, relay);
    else await relayRefusal(response, this.#parts.reply, dispatched, relay, log, target);
    return 'served';
  }
}
