import { assert } from '../base/assert.ts';
import { MIB } from '../base/units.ts';

/** Limits of the REST server. Passing one is answered by the status in brackets. */
export const LIMITS = {
  /** Request line and headers together, bytes [431]. */
  headerBytesMax: 16 * 1024,
  /** A JSON body, bytes [413]: a script and its input; files have no limit but the sandbox's disk. */
  bodyBytesMax: 8 * MIB,
  /** From a connection's first byte to the end of its headers, milliseconds [408]. */
  headersMsMax: 10_000,
  /** From the headers to the end of a JSON body, milliseconds [408]. */
  bodyMsMax: 30_000,
  /** Between two pieces of a file that is written, milliseconds [408]. */
  uploadIdleMsMax: 30_000,
  /** An answer whose reader takes nothing for so long is given up, milliseconds. */
  answerIdleMsMax: 60_000,
  /** How long the rest of a refused request is read and dropped, so that its answer arrives, milliseconds. */
  lingerMsMax: 2000,
  /** A connection that waits for its next request, milliseconds. */
  keepAliveMs: 75_000,
  /** Connections of one listener; further ones are closed at once. */
  connectionsMax: 1024,
  /** Buffered programs that run at once [429]; each may hold `outputBytesMax`. */
  execsMax: 64,
  /** Standard output and error of a buffered program together, bytes; the rest is dropped and told. */
  outputBytesMax: 16 * MIB,
  /** Open tunnels [429]. */
  tunnelsMax: 512,
  /** Those of one sandbox [429]: what its agent serves at once, so one sandbox can't take all. */
  tunnelsPerSandboxMax: 128,
  /**
   * How long a tunnel whose client has ended its direction goes on without a byte from the guest,
   * milliseconds. A client that died looks the same.
   */
  halfClosedIdleMsMax: 600_000,
  /** Open event streams [429]. */
  eventStreamsMax: 64,
  /** What an event stream's reader may be behind, bytes; then the stream ends. */
  eventQueueBytesMax: 256 * 1024,
  /** Between two signs of life on an event stream, milliseconds. */
  eventKeepAliveMs: 15_000,
  /** Keys of `Idempotency-Key` that are remembered [429 when all are under way]. */
  idempotencyKeysMax: 1024,
  /** How long a key is remembered, milliseconds. */
  idempotencyMs: 600_000,
  /** What is said to be the time for a next try when one of the counts above is used up, milliseconds. */
  retryAfterMs: 1000,
  /** An error's message, characters. */
  messageCharactersMax: 4096,
} as const;

assert(LIMITS.headerBytesMax < LIMITS.bodyBytesMax, 'a body is larger than its headers');
assert(
  LIMITS.eventStreamsMax < LIMITS.connectionsMax,
  'event streams leave connections for others',
);
assert(LIMITS.tunnelsMax < LIMITS.connectionsMax, 'tunnels leave connections for others');
