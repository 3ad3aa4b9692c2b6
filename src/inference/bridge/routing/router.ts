/** Chooses the route of a request by health, free slots and weight. Pure: time and randomness are arguments. */
import { assert } from '../../../base/assert.ts';
import type { UpstreamLoad } from '../queue/upstream-queues.ts';
import type { UpstreamTarget } from '../upstream/address.ts';
import { weighted } from './affinity.ts';
import { type AttemptEnd, type Availability, Health } from './health.ts';
import type { FailureCause, FallbackCause, Route, RouteTable } from './route-table.ts';

/** Routes of one model, followed by those of each fallback, in order. */
export interface Plan {
  /** For logs. */
  readonly model: string;
  readonly groups: readonly (readonly Route[])[];
  readonly fallbackOn: ReadonlySet<FallbackCause>;
  /**
   * The table's upstreams when the plan was made, for which the sandbox's permission was checked. Absent without a
   * table.
   */
  readonly upstreams?: RouteTable['upstreams'];
  /** The only upstream, without a table. */
  readonly target?: UpstreamTarget;
}

export function withRoutes(plan: Plan, isUsable: (route: Route) => boolean): Plan {
  const groups = plan.groups.map((routes) => routes.filter(isUsable)).filter(({ length }) => length > 0);
  return { ...plan, groups };
}

export interface Tried {
  readonly routes: ReadonlySet<Route>;
  /** Upstreams without a connection, whose other routes would fail too. */
  readonly unconnected: Set<string>;
}

export type Choice =
  | { readonly kind: 'route'; readonly route: Route }
  /** `cause` is null if all were tried. */
  | { readonly kind: 'none'; readonly cause: FailureCause | null; readonly retryInMs: number };

export interface Attempt {
  readonly upstream: string;
  readonly health: Health;
  readonly isProbe: boolean;
  readonly model: string;
}

/** Requests that a route may have beyond its share, before other routes are chosen although its cache fits. */
export const EXCESS_MAX = 16;

export class Router {
  readonly #health = new Map<string, Health>();
  readonly #load: (upstream: string) => UpstreamLoad;

  constructor(load: (upstream: string) => UpstreamLoad) {
    this.#load = load;
  }

  availability({ upstream, model }: Route, nowMs: number): Availability {
    return this.#healthOf(upstream).availability(nowMs, model);
  }

  /**
   * Chooses by weight a route whose upstream is available for its model, and not busy if there is one. Takes it from
   * the first group with such a route; a later group needs `fallbackOn` to include each cause that keeps the request
   * from those before.
   * @param draw in [0, 1), equal for requests that should get the same route
   */
  choose(plan: Plan, tried: Tried, nowMs: number, draw: (route: Route) => number): Choice {
    let waiting: readonly Route[] = [];
    let cause: FailureCause | null = null;
    let retryInMs = Number.POSITIVE_INFINITY;
    for (const group of plan.groups) {
      const usable: Route[] = [];
      let mayLeave = true;
      for (const route of group) {
        if (tried.routes.has(route) || tried.unconnected.has(route.upstream)) continue;
        const availability = this.availability(route, nowMs);
        if (availability.ok) {
          usable.push(route);
          continue;
        }
        if (availability.retryInMs < retryInMs) ({ cause, retryInMs } = availability);
        if (!plan.fallbackOn.has(availability.cause)) mayLeave = false;
      }
      const free = usable.filter(({ upstream }) => !this.#load(upstream).isBusy);
      if (free.length > 0) return { kind: 'route', route: this.#pick(free, draw) };
      if (waiting.length === 0) waiting = usable;
      if (usable.length > 0) mayLeave = plan.fallbackOn.has('busy');
      if (!mayLeave) break;
    }
    if (waiting.length > 0) return { kind: 'route', route: this.#pick(waiting, draw) };
    return { kind: 'none', cause, retryInMs };
  }

  #pick(routes: readonly Route[], draw: (route: Route) => number): Route {
    const loads = routes.map((route) => ({ route, ...this.#load(route.upstream) }));
    const requests = loads.reduce((sum, one) => sum + one.requests, 0);
    const weight = routes.reduce((sum, one) => sum + one.weight, 0);
    const even = loads.filter((one) => one.requests - (requests * one.route.weight) / weight < EXCESS_MAX);
    const [first, ...others] = even.map(({ route }) => route);
    assert(first !== undefined, 'not all routes have more than their share');
    return weighted([first, ...others], draw);
  }

  begin({ upstream, model }: Route, nowMs: number): Attempt {
    const health = this.#healthOf(upstream);
    return { upstream, health, ...health.begin(nowMs, model) };
  }

  /** Reports the attempt's outcome. Call once. */
  end(attempt: Attempt, end: AttemptEnd, nowMs: number): void {
    attempt.health.end(attempt, end, nowMs);
  }

  forget(upstream: string): void {
    this.#health.delete(upstream);
  }

  #healthOf(upstream: string): Health {
    const health = this.#health.get(upstream) ?? new Health();
    this.#health.set(upstream, health);
    return health;
  }
}

const SECONDS = /^\d{1,9}(?:\.\d{1,3})?$/;

/**
 * The wait that an answer asks for, in milliseconds; `null` if none. Sources: RFC 9110, 10.2.3; `retry-after-ms` of
 * hosted services.
 * @param wallMs milliseconds since 1970
 */
export function retryAfterMs(
  headers: Readonly<Record<string, string | readonly string[] | undefined>>,
  wallMs: number,
): number | null {
  const { 'retry-after-ms': exact, 'retry-after': text } = headers;
  if (typeof exact === 'string' && SECONDS.test(exact)) return Number(exact);
  if (typeof text !== 'string') return null;
  if (SECONDS.test(text)) return Number(text) * 1000;
  const date = /^[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT$/.test(text)
    ? Date.parse(text)
    : Number.NaN;
  return Number.isNaN(date) ? null : Math.max(0, date - wallMs);
}
