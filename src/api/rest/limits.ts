import { assert } from '../../base/assert.ts';
import { MIB } from '../../base/units.ts';

/** Limits of the REST server, with the status that answers a violation in brackets. */
export const API_LIMITS = {
  /** Time after which open streams and tunnels of a revoked key end at the latest, milliseconds. */
  keyCheckMs: 1000,
  /** Request line and headers together, bytes [431]. */
  headerBytesMax: 16 * 1024,
  /** A JSON body, bytes [413]: a script and its input. Files are limited only by the sandbox's disk. */
  bodyBytesMax: 8 * MIB,
  /** From a connection's first byte to the end of its headers, milliseconds [408]. */
  headersMsMax: 10_000,
  /** From the headers to the end of a JSON body, milliseconds [408]. */
  bodyMsMax: 30_000,
  /** Between two chunks of an uploaded file, milliseconds [408]. */
  uploadIdleMsMax: 30_000,
  /** Time after which an answer that is not read is dropped, milliseconds. */
  answerIdleMsMax: 60_000,
  /** Time during which the rest of a refused request is discarded, so that its answer arrives, milliseconds. */
  lingerMsMax: 2000,
  /** An idle keep-alive connection, milliseconds: longer than clients' pools keep one (E2B's in Python: 300 s). */
  keepAliveMs: 640_000,
  /**
   * Connections per listener, and at most two thirds of the files that the process may open. At the limit the next one is
   * closed at once, and so are all that are idle.
   */
  connectionsMax: 16_384,
  /** Programs of the `exec` route that run at once [429]; each may buffer `outputBytesMax`. */
  execsMax: 64,
  /** Such programs per sandbox [429], so that one sandbox can't take all. */
  execsPerSandboxMax: 32,
  /** Output of one such program, stdout and stderr together, bytes; the rest is dropped and `truncated` is set. */
  outputBytesMax: 16 * MIB,
  /** Listings that run at once [429]; each may hold `GUEST_LIMITS.listBytesMax`. */
  listingsMax: 32,
  /** Listings per sandbox [429], so that one whose guest never answers can't take all. */
  listingsPerSandboxMax: 4,
  /** Open tunnels [429]. */
  tunnelsMax: 512,
  /** Tunnels per sandbox [429], as many as its agent serves, so that one sandbox can't take all. */
  tunnelsPerSandboxMax: 128,
  /**
   * Idle time of a tunnel whose client has half-closed it, milliseconds. A dead client looks the same.
   */
  halfClosedIdleMsMax: 600_000,
  /** Open event streams [429]. */
  eventStreamsMax: 64,
  /** Open sessions [429]: one per `neurovisor run`. */
  sessionsMax: 512,
  /** Backlog of an event stream, bytes; beyond it the stream ends. */
  eventQueueBytesMax: 256 * 1024,
  /** Interval of keep-alive comments on an event stream, milliseconds. */
  eventKeepAliveMs: 15_000,
  /** Remembered `Idempotency-Key`s [429 when all are in progress]. */
  idempotencyKeysMax: 1024,
  /** Time for which a key is remembered, milliseconds. */
  idempotencyMs: 600_000,
  /** `Retry-After` when one of the counts above is exhausted, milliseconds. */
  retryAfterMs: 1000,
  /** Length of an error message, characters. */
  messageCharactersMax: 4096,
} as const;

assert(API_LIMITS.headerBytesMax < API_LIMITS.bodyBytesMax, 'a body is larger than its headers');
assert(API_LIMITS.eventStreamsMax < API_LIMITS.connectionsMax, 'event streams leave connections for others');
assert(API_LIMITS.sessionsMax < API_LIMITS.connectionsMax, 'sessions leave connections for others');
assert(API_LIMITS.tunnelsMax < API_LIMITS.connectionsMax, 'tunnels leave connections for others');
