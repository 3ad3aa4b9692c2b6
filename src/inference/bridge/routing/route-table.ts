/** Types of the table of model servers and their models, and what follows from them alone. */
import { EVERY_HOSTED } from '../../../base/request/model-limits.ts';
import type { Price } from '../budget/price.ts';
import type { UpstreamApi, UpstreamTarget } from '../upstream/address.ts';

/** Causes for which the bridge switches to the next route, before the guest has a byte of the answer. */
export const FALLBACK_CAUSES = ['connect', 'timeout', '429', '5xx', 'busy'] as const;
/**
 * `connect`: no connection, so nothing was sent · `timeout`: no answer within `answerWithinMs` · `429`, `5xx`: the
 * status · `busy`: all slots of the upstream are taken.
 */
export type FallbackCause = (typeof FALLBACK_CAUSES)[number];
export type FailureCause = Exclude<FallbackCause, 'busy'>;

export interface RoutedUpstream {
  readonly name: string;
  /** Called for each request. */
  readonly target: () => Promise<UpstreamTarget>;
  /** True if prompts leave this host, so that a sandbox needs its owner's permission. */
  readonly isHosted: boolean;
  /** Limit for the head of an answer in ms; `null` for only the bridge's limits. */
  readonly answerWithinMs: number | null;
  /** True if the models in its list are offered under their own names. */
  readonly discover: boolean;
  /** Its model list, if known without asking, which may start the server. */
  readonly models?: readonly string[];
  /** API of its target. Default: OpenAI's. */
  readonly api?: UpstreamApi;
}

export interface Route {
  readonly upstream: string;
  readonly model: string;
  /** Share among the routes of a model, 1 … 1000. */
  readonly weight: number;
  /** Absent if it is free, `null` if the price is unknown. */
  readonly price?: Price | null;
}

export interface RoutedModel {
  readonly routes: readonly Route[];
  /** Other models of the table, in order. Their own fallbacks do not apply. */
  readonly fallback: readonly string[];
  readonly fallbackOn: ReadonlySet<FallbackCause>;
}

/** May change while the bridge runs. A server whose object is the same has not changed. */
export interface RouteTable {
  readonly upstreams: readonly RoutedUpstream[];
  /** By the name that guests use. */
  readonly models: ReadonlyMap<string, RoutedModel>;
}

export type UpstreamSource = (() => Promise<UpstreamTarget>) | RouteTable;

/** Name of the only upstream without a table. */
export const ONLY_UPSTREAM = 'default';

export function tableOf(source: UpstreamSource): RouteTable {
  if (typeof source !== 'function') return source;
  const only: RoutedUpstream = {
    name: ONLY_UPSTREAM,
    target: source,
    // Configuring one upstream for all sandboxes implies the permission.
    isHosted: false,
    answerWithinMs: null,
    discover: true,
  };
  return { upstreams: [only], models: new Map() };
}

export function mayUseHosted(model: string, allowHosted: readonly string[] | undefined): boolean {
  return allowHosted?.some((name) => name === EVERY_HOSTED || name === model) ?? false;
}
