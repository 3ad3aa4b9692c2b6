import { assert } from '../../../base/assert.ts';

/** Limits of requests to ports of sandboxes. A status in brackets is the answer beyond the limit. */
export const TRAFFIC_LIMITS = {
  /** Concurrent requests and upgraded connections of all sandboxes [429]. */
  exchangesMax: 8192,
  /** Those to sandboxes of tenants: one can have 2144, and each of 32 at least those of one sandbox. */
  exchangeShares: { operatorMin: 1024, guaranteed: 96, places: 32 },
  /** Limit of one sandbox [429]. Fewer than the operations of its agent, so that programs and files stay reachable. */
  exchangesPerSandboxMax: 96,
  /** Requests whose host names an unknown id, and which are looked up; the others get the same answer. */
  unknownIds: { size: 100, refillPerSecond: 50 },
  answerHeadBytesMax: 64 * 1024,
  /** Interim answers (1xx) that are passed on; the others are dropped. */
  interimMax: 8,
  /** Interval of checking a connection: a client that has read nothing for this time is considered gone. */
  stalledMsMax: 300_000,
  /** A request or an upgraded connection without a byte in either direction. */
  idleMsMax: 3_600_000,
  /** Likewise, after one side has ended its direction. */
  halfClosedIdleMsMax: 600_000,
} as const;

assert(TRAFFIC_LIMITS.stalledMsMax <= TRAFFIC_LIMITS.halfClosedIdleMsMax, 'idle times are counted in looks');
