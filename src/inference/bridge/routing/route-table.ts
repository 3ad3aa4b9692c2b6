/** Several model servers, and which of them answers for which model. Types, and what follows from them alone. */
import { EVERY_HOSTED } from '../../../base/request/model-limits.ts';
import type { Price } from '../budget/price.ts';
import type { UpstreamApi, UpstreamTarget } from '../upstream/address.ts';

/** What makes the bridge leave a route for the next one, before the guest has a byte of the answer. */
export const FALLBACK_CAUSES = ['connect', 'timeout', '429', '5xx', 'busy'] as const;
/**
 * `connect`: no connection, so nothing was sent · `timeout`: no answer within `answerWithinMs` · `429`, `5xx`: the
 * status · `busy`: all slots of the upstream are taken.
 */
export type FallbackCause = (typeof FALLBACK_CAUSES)[number];
/** What ends an attempt without an answer. */
export type FailureCause = Exclude<FallbackCause, 'busy'>;

export interface RoutedUpstream {
  readonly name: string;
  /** Called for each request. */
  readonly target: () => Promise<UpstreamTarget>;
  /** Prompts leave this host, so a sandbox needs its owner's permission. */
  readonly isHosted: boolean;
  /** Longest wait for the head of an answer; null: only the limits of the bridge. */
  readonly answerWithinMs: number | null;
  /** Models in its list are offered under their own names. */
  readonly discover: boolean;
  /** Its list, where it is known without asking, which may start it. */
  readonly models?: readonly string[];
  /** That of its target. Absent: OpenAI's. */
  readonly api?: UpstreamApi;
}

export interface Route {
  readonly upstream: string;
  /** The upstream's name of the model. */
  readonly model: string;
  /** Share among the routes of a model, 1 … 1000. */
  readonly weight: number;
  /** Absent: it costs nothing; null: nobody knows what. */
  readonly price?: Price | null;
}

export interface RoutedModel {
  readonly routes: readonly Route[];
  /** Other models of the table, in order. Their own fallbacks do not count. */
  readonly fallback: readonly string[];
  readonly fallbackOn: ReadonlySet<FallbackCause>;
}

/** May change while the bridge runs: a server whose object is the same has not changed. */
export interface RouteTable {
  readonly upstreams: readonly RoutedUpstream[];
  /** By the name that guests use. */
  readonly models: ReadonlyMap<string, RoutedModel>;
}

/** One upstream for all models, or a table of several. */
export type UpstreamSource = (() => Promise<UpstreamTarget>) | RouteTable;

/** The name of the only upstream where there is no table. */
export const ONLY_UPSTREAM = 'default';

export function tableOf(source: UpstreamSource): RouteTable {
  if (typeof source !== 'function') return source;
  const only: RoutedUpstream = {
    name: ONLY_UPSTREAM,
    target: source,
    // Whoever configures one upstream for all sandboxes means it.
    isHosted: false,
    answerWithinMs: null,
    discover: true,
  };
  return { upstreams: [only], models: new Map() };
}

export function mayUseHosted(model: string, allowHosted: readonly string[] | undefined): boolean {
  return allowHosted?.some((name) => name === EVERY_HOSTED || name === model) ?? false;
}
