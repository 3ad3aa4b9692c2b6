/** Every limit of the package gateway, with its unit last and the outcome of passing it. */
import { GIB, KIB, MIB } from '../../base/units.ts';

/** Limits of one port, and so of one sandbox. */
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
  /** Different names or paths that the indexes are asked for; more get 403. A guest can encode data in them. */
  namesMax: 5_000,
  /** All these names and paths together; more get 403. A path of Go has 60; the longest would carry 1 KB each. */
  nameCharactersMax: 300_000,
  /** Different names that the indexes do not have; more get 403. Words of an encoding are mostly such names. */
  unknownNamesMax: 500,
  /** Time of the event loop for small pages: at once, and per second afterwards; more goes to a thread. */
  pageTimeMs: 100,
  pageTimePerSecondMs: 50,
  /** New names at once, and per second afterwards; more get 429. */
  namesBurst: 1_000,
  namesPerSecond: 10,
} as const;

/** Limits of requests to indexes. */
export const UPSTREAM_LIMITS = {
  /** Silence before the head (with name and connection) and between bytes; longer gets 504, or cuts the answer. */
  silenceTimeoutMs: 60_000,
  /** A whole page; longer gets 504. */
  pageTimeoutMs: 60_000,
  /** A whole file; longer cuts the answer. */
  fileTimeoutMs: 3_600_000,
  /** Headers of an answer; more gets 502. */
  headerBytesMax: 64 * KIB,
  /** A page, uncompressed; more gets 502. */
  pageBytesMax: 32 * MIB,
  /** All pages under way, uncompressed; more get 502. */
  pagesBytesMax: 256 * MIB,
  /** A file; more gets 502, or cuts the answer. */
  fileBytesMax: 4 * GIB,
  /** Redirects of one request; more get 502. */
  redirectsMax: 5,
} as const;

export const CACHE_LIMITS = {
  /** Files on disk; beyond it, those unused for longest go. */
  fileBytesMax: 4 * GIB,
  /** Pages in memory, by the bytes that came from the index; beyond it, those unused for longest go. */
  pageBytesMax: 128 * MIB,
  /** A page younger than this is served without asking the index. */
  pageFreshMs: 60_000,
  /** A download without a reader continues for this time, since clients retry. */
  orphanMs: 30_000,
} as const;
