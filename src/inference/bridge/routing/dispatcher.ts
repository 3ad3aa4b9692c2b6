/**
 * Tries one route after the other until an upstream answers (io).
 *
 *     choose ─► its queue ─► send ─┬─ answer ─► the guest gets it
 *        ▲                         └─ no connection, 429, 5xx …: the next route, if the model's table allows it
 *        └──────────────────────────────┘
 *
 * The guest gets no byte before an upstream answers, and the answer is never switched once its head was good.
 */
import { assert } from '../../../base/assert.ts';
import type { Clock } from '../../../base/clock.ts';
import { accepted, type Checked } from '../../../base/http/refusal.ts';
import type { Log } from '../../../base/log.ts';
import { Counter, type Metric } from '../../../base/metrics.ts';
import { orAborted } from '../../../base/time-limit.ts';
import { BridgeError, NotConnectedError, UpstreamsPausedError } from '../errors.ts';
import type { Turn, UpstreamLoad, UpstreamQueues } from '../queue/upstream-queues.ts';
import type { UpstreamAnswer } from '../tape/tape.ts';
import type { UpstreamTarget } from '../upstream/address.ts';
import type { Draw } from './affinity.ts';
import type { AttemptEnd } from './health.ts';
import {
  type FailureCause,
  type Route,
  type RoutedUpstream,
  type RouteTable,
  tableOf,
  type UpstreamSource,
} from './route-table.ts';
import { type Attempt, type Choice, type Plan, Router, retryAfterMs, type Tried } from './router.ts';

/** Sends the request to an upstream and resolves with the head of its answer. @throws as `UpstreamClient.send` */
export type SendAttempt = (target: UpstreamTarget, route: Route, signal: AbortSignal) => Promise<UpstreamAnswer>;

export interface DispatchRequest {
  readonly plan: Plan;
  /** Requests with the same key prefer the same upstream; `null` for no preference. */
  readonly affinity: string | null;
  readonly signal: AbortSignal;
  /** Waits for a slot of the upstream. The dispatcher releases it only when it switches to another upstream. */
  readonly enter: (target: UpstreamTarget) => Promise<Checked<Turn>>;
  readonly send: SendAttempt;
}

export interface Delivery {
  readonly response: UpstreamAnswer;
  readonly target: UpstreamTarget;
}

export interface DispatcherOptions {
  readonly source: UpstreamSource;
  readonly queues: UpstreamQueues;
  readonly clock: Clock;
  readonly log: Log;
  readonly draw: Draw;
}

export class Dispatcher {
  readonly #options: DispatcherOptions;
  readonly #table: RouteTable;
  #upstreams: ReadonlyMap<string, RoutedUpstream> = new Map();
  /** The table's upstreams from which `#upstreams` was made. */
  #seen: RouteTable['upstreams'] | undefined;
  /** False without a table: there is no other upstream, so every request is sent. */
  readonly #judges: boolean;
  readonly #router: Router;
  readonly #attempts = new Counter(
    'neurovisor_upstream_attempts_total',
    'Requests to each upstream: answered, connect (no connection), 5xx, 429, other.',
    ['upstream', 'result'],
    512,
  );
  readonly #targets = new Map<string, UpstreamTarget>();

  constructor(options: DispatcherOptions) {
    this.#options = options;
    this.#table = tableOf(options.source);
    this.#judges = typeof options.source !== 'function';
    const load = (name: string): UpstreamLoad => {
      const target = this.#targets.get(name);
      return target === undefined ? IDLE : options.queues.load(target);
    };
    this.#router = new Router(load);
    this.#follow();
  }

  get hasChoice(): boolean {
    return this.#table.upstreams.length > 1;
  }

  upstreamOf(name: string): RoutedUpstream | undefined {
    return this.#upstreams.get(name);
  }

  metrics(): readonly Metric[] {
    return [this.#attempts];
  }

  /**
   * Resolves with the first answer that does not require another route, else the last one; or with the refusal of a
   * queue.
   * @throws UpstreamsPausedError; as `SendAttempt`
   */
  async dispatch(request: DispatchRequest): Promise<Checked<Delivery>> {
    const { plan, signal, affinity } = request;
    const draw = this.#drawsOf(affinity);
    const tried = { routes: new Set<Route>(), unconnected: new Set<string>() };
    let failure: { readonly error: unknown } | undefined;
    for (;;) {
      const choice = this.#choose(plan, tried, draw);
      if (choice.kind === 'none') throw failure?.error ?? pausedError(choice, plan.model);
      const { route } = choice;
      let attempt: Attempt | undefined;
      let turn: Turn | undefined;
      let cause: FailureCause;
      try {
        const upstream = this.#upstream(route);
        let target = await this.#target(route, signal);
        const entered = await request.enter(target);
        if (!entered.ok) return entered;
        turn = entered.value;
        // During the wait it may have failed for others, or `models.toml` may have changed.
        if (!this.#isAvailable(route) || this.#upstream(route) !== upstream) {
          leave(turn);
          continue;
        }
        target = await this.#withKeyOfNow(target, route, signal);
        attempt = this.#begin(route);
        tried.routes.add(route);
        const response = await this.#send(target, route, request);
        this.#end(attempt, endOf(response, this.#options.clock.wall()));
        attempt = undefined;
        const status = causeOf(response.statusCode ?? 0);
        if (status === null || !this.#hasAnother(plan, tried, status, draw)) {
          return accepted({ response, target });
        }
        cause = status;
        response.destroy();
      } catch (error) {
        const failed = failureOf(error, signal);
        const isSure = failed === 'connect';
        attempt ??= isSure && !tried.routes.has(route) ? this.#begin(route) : undefined;
        tried.routes.add(route);
        if (isSure) tried.unconnected.add(route.upstream);
        const end: AttemptEnd = isSure ? { kind: 'failed', cause: 'connect', retryAfterMs: null } : { kind: 'unsure' };
        if (attempt !== undefined) this.#end(attempt, end);
        if (failed === null || !plan.fallbackOn.has(failed)) throw error;
        cause = failed;
        failure = { error };
      }
      leave(turn);
      this.#options.log.info('another route is tried', { model: plan.model, left: route.upstream, cause });
    }
  }

  async #send(target: UpstreamTarget, route: Route, { send, signal }: DispatchRequest): Promise<UpstreamAnswer> {
    const { answerWithinMs } = this.#upstream(route);
    if (answerWithinMs === null) return send(target, route, signal);
    const late = new AbortController();
    const stop = this.#options.clock.after(answerWithinMs, () => {
      const message = `${target.name} did not begin to answer within ${answerWithinMs} ms`;
      late.abort(new BridgeError('upstream_timeout', message));
    });
    try {
      return await send(target, route, AbortSignal.any([signal, late.signal]));
    } finally {
      stop();
    }
  }

  async #target(route: Route, signal: AbortSignal): Promise<UpstreamTarget> {
    try {
      const target = await orAborted(this.#upstream(route).target(), signal);
      this.#targets.set(route.upstream, target);
      return target;
    } catch (cause) {
      if (!this.#judges || signal.aborted) throw cause;
      throw new NotConnectedError('upstream_unreachable', `start ${route.upstream}`, { cause });
    }
  }

  /** A program may have printed another key during the wait. */
  async #withKeyOfNow(target: UpstreamTarget, route: Route, signal: AbortSignal): Promise<UpstreamTarget> {
    if (target.onDenied === undefined) return target;
    const now = await this.#target(route, signal);
    return now.apiKey === target.apiKey ? target : now;
  }

  #drawsOf(affinity: string | null): (route: Route) => number {
    return (route) => this.#options.draw(affinity, route);
  }

  #follow(): void {
    const { upstreams } = this.#table;
    if (upstreams === this.#seen) return;
    this.#seen = upstreams;
    const before = this.#upstreams;
    this.#upstreams = new Map(upstreams.map((upstream) => [upstream.name, upstream]));
    for (const name of before.keys()) {
      if (this.#upstreams.get(name) === before.get(name)) continue;
      this.#router.forget(name);
      this.#targets.delete(name);
    }
    for (const upstream of this.#upstreams.keys()) {
      if (before.has(upstream)) continue;
      // Creates all series at 0: Prometheus misses the first increase of a series that begins with it.
      for (const result of RESULTS) this.#attempts.add({ upstream, result }, 0);
    }
  }

  #choose(plan: Plan, tried: Tried, draw: (route: Route) => number): Choice {
    this.#follow();
    for (const { upstream } of plan.groups.flat()) {
      if (!this.#isAsPlanned(plan, upstream)) tried.unconnected.add(upstream);
    }
    return this.#router.choose(plan, tried, this.#options.clock.now(), draw);
  }

  #hasAnother(plan: Plan, tried: Tried, cause: FailureCause, draw: (route: Route) => number): boolean {
    return plan.fallbackOn.has(cause) && this.#choose(plan, tried, draw).kind !== 'none';
  }

  /** True if the upstream still exists at the same address and understands the request. */
  #isAsPlanned({ upstreams }: Plan, name: string): boolean {
    const now = this.#upstreams.get(name);
    if (now === undefined) return false;
    const then = upstreams?.find((one) => one.name === name);
    if (then === undefined || then === now) return true;
    return (then.isHosted || !now.isHosted) && then.api === now.api;
  }

  #isAvailable(route: Route): boolean {
    this.#follow();
    if (!this.#upstreams.has(route.upstream)) return false;
    return this.#router.availability(route, this.#options.clock.now()).ok;
  }

  #begin(route: Route): Attempt {
    return this.#router.begin(route, this.#options.clock.now());
  }

  #end(attempt: Attempt, end: AttemptEnd): void {
    this.#attempts.add({ upstream: attempt.upstream, result: resultOf(end) });
    const judged: AttemptEnd = this.#judges ? end : { kind: 'unsure' };
    this.#router.end(attempt, judged, this.#options.clock.now());
  }

  #upstream({ upstream: name }: Route): RoutedUpstream {
    const upstream = this.#upstreams.get(name);
    assert(upstream !== undefined, 'routes name upstreams of the table');
    return upstream;
  }
}

const IDLE: UpstreamLoad = { requests: 0, isBusy: false };

const RESULTS = ['answered', 'connect', '5xx', '429', 'other'] as const;

function resultOf(end: AttemptEnd): string {
  if (end.kind === 'failed') return end.cause;
  return { answered: 'answered', limited: '429', unsure: 'other' }[end.kind];
}

/** An upstream that has not answered used no tokens. */
function leave(turn: Turn | undefined): void {
  turn?.charge(0, 0);
  turn?.release();
}

function causeOf(status: number): FailureCause | null {
  if (status === 429) return '429';
  return status >= 500 ? '5xx' : null;
}

/** 529 is "overloaded" at Anthropic and compatible services. */
const OVERLOADED: ReadonlySet<number> = new Set([502, 503, 504, 529]);

function endOf({ statusCode = 0, headers }: UpstreamAnswer, wallMs: number): AttemptEnd {
  const wait = retryAfterMs(headers, wallMs);
  if (statusCode === 429) return { kind: 'limited', retryAfterMs: wait };
  if (OVERLOADED.has(statusCode)) return { kind: 'failed', cause: '5xx', retryAfterMs: wait };
  return { kind: statusCode >= 500 ? 'unsure' : 'answered' };
}

/** `null` if the upstream may have seen the request, or another route would not help. */
function failureOf(error: unknown, signal: AbortSignal): FailureCause | null {
  if (signal.aborted || !(error instanceof BridgeError)) return null;
  if (error instanceof NotConnectedError) return 'connect';
  return error.code === 'upstream_timeout' ? 'timeout' : null;
}

function pausedError({ cause, retryInMs }: Extract<Choice, { kind: 'none' }>, model: string): Error {
  if (retryInMs === Number.POSITIVE_INFINITY) {
    // The server was removed after it had been chosen.
    return new BridgeError('upstream_unreachable', `find a server of ${model} in models.toml`);
  }
  const code = cause === '429' ? 'upstream_limited' : 'upstream_unavailable';
  return new UpstreamsPausedError(code, model, retryInMs);
}
