/** Records of requests, for a log of the host's owner. Unlike usage, sandboxes and tenants do not see them. */
import type { Content } from '../content/content.ts';
import type { UsageRecord } from '../usage.ts';

/** A request that was sent to a model server, or answered in its place. */
export interface SentRequest extends UsageRecord {
  readonly dialect: string;
  /** Name in `models.toml`; `default` if there is only one. `null` if a cassette answered. */
  readonly upstream: string | null;
  /** The upstream's name for the model. */
  readonly upstreamModel: string;
  readonly replayed: boolean;
  /** Id of the trace that the upstream got; `null` if there is none. */
  readonly traceId: string | null;
  /** Billionths of a dollar; `null` if the route has no price, 0 if no model server was called. */
  readonly costNanoDollars: number | null;
  /** The first different names of tools that the answer called. Hostile text. */
  readonly tools: readonly string[];
  readonly toolCalls: number;
  /** Request and answer; `null` if the log keeps no content. */
  readonly content: Content | null;
  readonly leftOut: number;
}

export interface RefusedRequest {
  readonly sandboxId: string;
  readonly dialect: string;
  readonly operation: string;
  /** The model that the sandbox named; `null` if the body was not read or names none. Hostile text. */
  readonly model: string | null;
  readonly stream: boolean;
  readonly status: number;
  readonly code: string;
  readonly totalMs: number;
  /** Number of refused requests of this sandbox since its last record that were not recorded, to limit the rate. */
  readonly leftOut: number;
}

/** Receives records. Must not throw. */
export interface RequestLog {
  sent(request: SentRequest): void;
  refused(request: RefusedRequest): void;
}
