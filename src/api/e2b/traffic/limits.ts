import { assert } from '../../../base/assert.ts';

/** Limits of requests to ports of sandboxes. */
export const TRAFFIC_LIMITS = {
  /** Requests and upgraded connections of all sandboxes at once [429]. */
  exchangesMax: 8192,
  /** Of one sandbox [429]. Fewer than the operations of its agent, so that programs and files stay reachable. */
  exchangesPerSandboxMax: 96,
  /** Headers of an answer, bytes, and of its trailers. */
  answerHeadBytesMax: 64 * 1024,
  /** Interim answers (1xx) that are passed on; the others are dropped. */
  interimMax: 8,
  /** How often a connection is looked at, milliseconds: a client that has read nothing for this time is gone. */
  stalledMsMax: 300_000,
  /** A request or an upgraded connection without a byte in either direction, milliseconds. */
  idleMsMax: 3_600_000,
  /** The same, after one side has ended its direction. */
  halfClosedIdleMsMax: 600_000,
} as const;

assert(TRAFFIC_LIMITS.stalledMsMax <= TRAFFIC_LIMITS.halfClosedIdleMsMax, 'idle times are counted in looks');
