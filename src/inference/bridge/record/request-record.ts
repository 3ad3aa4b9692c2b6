/** Records of requests, for a log of the host's owner. Unlike usage, no sandbox and no tenant sees them. */
import type { Content } from '../content/content.ts';
import type { UsageRecord } from '../usage.ts';

/** A request that was sent to a model server, or answered in its place. */
export interface SentRequest extends UsageRecord {
  /** The API that the sandbox spoke. */
  readonly dialect: string;
  /** Its name in `models.toml`; `default`: the only one. Null: a cassette has answered. */
  readonly upstream: string | null;
  /** The upstream's name of the model. */
  readonly upstreamModel: string;
  /** A cassette has answered. */
  readonly replayed: boolean;
  /** Of the trace that the upstream got; null: there is none. */
  readonly traceId: string | null;
  /** Billionths of a dollar; null: the route has no price. 0: no model server was asked. */
  readonly costNanoDollars: number | null;
  /** Names of tools that the answer called: the first ones, each once. Hostile text. */
  readonly tools: readonly string[];
  /** Number of these calls; at most `TOOL_LIMITS.callsMax`. */
  readonly toolCalls: number;
  /** What was asked and answered; null: the log has none. */
  readonly content: Content | null;
  readonly leftOut: number;
}

/** A request that the bridge has refused. */
export interface RefusedRequest {
  readonly sandboxId: string;
  readonly dialect: string;
  readonly operation: string;
  /** As the sandbox named it; null: the body was not read, or names none. Hostile text. */
  readonly model: string | null;
  readonly stream: boolean;
  /** HTTP status. */
  readonly status: number;
  /** For example `budget_spent`. */
  readonly code: string;
  readonly totalMs: number;
  /** Refused requests of this sandbox since its last record that have none, since there were too many. */
  readonly leftOut: number;
}

/** Takes records; never throws. */
export interface RequestLog {
  sent(request: SentRequest): void;
  refused(request: RefusedRequest): void;
}
