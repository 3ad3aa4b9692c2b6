/** All limits of the package gateway, each with what happens beyond it. A name ends with its unit. */
import { GIB, KIB, MIB } from '../../base/units.ts';

export const PORT_LIMITS = {
  /** Open connections; more are closed immediately. */
  connectionsMax: 64,
  /** Requests between their head and the end of their answer; more get 429. */
  requestsInFlightMax: 48,
  /** Request line and headers; more gets 431. */
  requestHeaderBytesMax: 16 * KIB,
  /** Header lines; more get 431. */
  requestHeadersMax: 64,
  /** From the first byte of a request to the end of its headers; longer gets 408. */
  headersTimeoutMs: 10_000,
  /** A connection without a request; longer closes it. */
  idleConnectionTimeoutMs: 120_000,
  /** A guest that stops reading its answer; longer closes the connection. */
  stallTimeoutMs: 120_000,
  /** Different names or paths requested from the indexes; more get 403. A guest can encode data in them. */
  namesMax: 5_000,
  /** Sum of all these names and paths; more get 403. A path of Go has 60; the longest would carry 1 KB each. */
  nameCharactersMax: 300_000,
  /** Different names that the indexes do not have; more get 403. Encoded data mostly consists of such names. */
  unknownNamesMax: 500,
  /** Time on the event loop for small pages, at once and per second afterwards; more goes to a thread. */
  pageTimeMs: 100,
  pageTimePerSecondMs: 50,
  /** New names at once, and per second afterwards; more get 429. */
  namesBurst: 1_000,
  namesPerSecond: 10,
} as const;

export const UPSTREAM_LIMITS = {
  /**
   * Silence before the head (including name lookup and connection) and between bytes; longer gets 504, or truncates the
   * answer.
   */
  silenceTimeoutMs: 60_000,
  /** A whole page; longer gets 504. */
  pageTimeoutMs: 60_000,
  /** A whole file; longer truncates the answer. */
  fileTimeoutMs: 3_600_000,
  /** Headers of an answer; more gets 502. */
  headerBytesMax: 64 * KIB,
  /** A page, uncompressed; more gets 502. */
  pageBytesMax: 32 * MIB,
  /** All pages in progress, uncompressed; more get 502. */
  pagesBytesMax: 256 * MIB,
  /** A file; more gets 502, or truncates the answer. */
  fileBytesMax: 4 * GIB,
  /** Redirects of one request; more get 502. */
  redirectsMax: 5,
} as const;

export const CACHE_LIMITS = {
  /** Files on disk; beyond it, the least recently used are removed. */
  fileBytesMax: 4 * GIB,
  /** Pages in memory, by the bytes that came from the index; beyond it, the least recently used are removed. */
  pageBytesMax: 128 * MIB,
  /** A page younger than this is served without asking the index. */
  pageFreshMs: 60_000,
  /** A download without a reader continues for this time, since clients retry. */
  orphanMs: 30_000,
} as const;
