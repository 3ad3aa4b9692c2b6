import { assert } from '../../base/assert.ts';
import { KIB, MIB } from '../../base/units.ts';

/** Limits of the REST server. A status in brackets is the answer beyond the limit. */
export const API_LIMITS = {
  /** Request line and headers together [431]. */
  headerBytesMax: 16 * 1024,
  /** A JSON body [413]: a script and its input. Files are limited only by the sandbox's disk. */
  bodyBytesMax: 8 * MIB,
  /**
   * Values and names of a JSON body [413]: an `exec` may have 65,536 arguments and 4096 variables. Millions take seconds
   * to parse, and 100,000 names 140 ms.
   */
  bodyJson: { valuesMax: 100_000, namesMax: 8192 },
  /** Larger bodies of a tenant take turns. */
  bodyAtOnceBytesMax: 64 * KIB,
  /** Milliseconds of the event loop for parsing and checking them: at once, and per second. */
  bodyLoopTime: { size: 1, refillPerSecond: 200 },
  /** Such bodies of a tenant that wait [429]; each is in memory. */
  bodiesWaitingMax: 32,
  /** From a connection's first byte to the end of its headers [408]. */
  headersMsMax: 10_000,
  /** From the headers to the end of a JSON body [408]. */
  bodyMsMax: 30_000,
  /** Between two chunks of an uploaded file [408]. */
  uploadIdleMsMax: 30_000,
  /** Time after which an unread answer is dropped. */
  answerIdleMsMax: 60_000,
  /** Time during which the rest of a refused request is discarded, so that its answer arrives. */
  lingerMsMax: 2000,
  /** An idle keep-alive connection: longer than clients' pools keep one (E2B's in Python: 300 s). */
  keepAliveMs: 640_000,
  /**
   * Connections per listener; at most two thirds of the files that the process may open. At the limit the next one is
   * closed at once, and so are all idle ones.
   */
  connectionsMax: 16_384,
  /** Concurrent programs of the `exec` route [429]; each may buffer `outputBytesMax`. */
  execsMax: 64,
  /** Such programs per sandbox [429], so that one sandbox can't take all. */
  execsPerSandboxMax: 32,
  /** Output of one such program, stdout and stderr together; the rest is dropped and `truncated` is set. */
  outputBytesMax: 16 * MIB,
  /** Concurrent listings [429]; each may hold `GUEST_LIMITS.listBytesMax`. */
  listingsMax: 32,
  /** Listings per sandbox [429], so that one whose guest never answers can't take all. */
  listingsPerSandboxMax: 4,
  /** Open tunnels [429]. */
  tunnelsMax: 512,
  /** One tenant can have 136 of them, so that it can use all of one sandbox. */
  tunnelShares: { operatorMin: 128, guaranteed: 8, places: 16 },
  /** Tunnels per sandbox [429], as many as its agent serves, so that one sandbox can't take all. */
  tunnelsPerSandboxMax: 128,
  /** Idle time of a tunnel whose client has half-closed it. A dead client looks the same. */
  halfClosedIdleMsMax: 600_000,
  /** Readers of the audit log at a time [429]: each reads files. */
  auditReadersMax: 8,
  /** Open event streams [429]. */
  eventStreamsMax: 1024,
  eventStreamShares: { operatorMin: 256, ownMax: 64, guaranteed: 8, places: 64 },
  /** Concurrent pulls and builds of images, templates and models [429]. */
  pullsMax: 16,
  /** Open sessions [429]: one per `neurovisor run`. */
  sessionsMax: 2048,
  sessionShares: { operatorMin: 512, ownMax: 512, guaranteed: 8, places: 64 },
  /** Backlog of an event stream; beyond it the stream ends. */
  eventQueueBytesMax: 256 * 1024,
  /** Interval of keep-alive comments on an event stream. */
  eventKeepAliveMs: 15_000,
  /** Remembered `Idempotency-Key`s [429 if all are in progress]. */
  idempotencyKeysMax: 1024,
  idempotencyMs: 600_000,
  /** `Retry-After` if one of the counts above is exhausted. */
  retryAfterMs: 1000,
  /** Problems of a request that its answer names. */
  problemsMax: 20,
  messageCharactersMax: 4096,
} as const;

assert(API_LIMITS.headerBytesMax < API_LIMITS.bodyBytesMax, 'a body is larger than its headers');
assert(API_LIMITS.eventStreamsMax < API_LIMITS.connectionsMax, 'event streams leave connections for others');
assert(API_LIMITS.sessionsMax < API_LIMITS.connectionsMax, 'sessions leave connections for others');
assert(API_LIMITS.tunnelsMax < API_LIMITS.connectionsMax, 'tunnels leave connections for others');
