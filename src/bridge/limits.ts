/**
 * Every limit of the bridge, with its unit last. Passing one has a defined outcome, named beside it.
 * All are per port (that is: per sandbox) unless they say otherwise.
 */
import { KIB, MIB } from '../base/units.ts';
export interface BridgeLimits {
  /** Open connections; more are closed at once. */
  readonly connectionsMax: number;
  /** Requests between their first byte and the end of their answer; more get 429. */
  readonly requestsInFlightMax: number;
  /** Request line and headers of one request; more gets 431. */
  readonly requestHeaderBytesMax: number;
  /** Header lines of one request; further lines are never seen. */
  readonly requestHeadersMax: number;
  /** Body of one request; more gets 413. */
  readonly bodyBytesMax: number;
  /** Memory for all bodies of a port together; more gets 429. */
  readonly bodyTotalBytesMax: number;
  /** Nested arrays and objects in a body; more gets 400. */
  readonly jsonDepthMax: number;
  /** Objects and lists in a body; more gets 400. Parsed, each costs about a hundred bytes. */
  readonly jsonContainersMax: number;
  /** Values in a body, e.g. token ids; more gets 400. */
  readonly jsonValuesMax: number;
  /** From the first byte of a request to the end of its headers; longer gets 408. */
  readonly headersTimeoutMs: number;
  /** From the first byte of a request to the end of its body; longer gets 408. */
  readonly bodyTimeoutMs: number;
  /** A connection without a request; longer closes it. Above what client pools keep, so they close first. */
  readonly idleConnectionTimeoutMs: number;
  /** A guest that does not read its answer; longer cancels the request. */
  readonly stallTimeoutMs: number;
  /** Connecting to the upstream; longer gets 503. */
  readonly connectTimeoutMs: number;
  /** Silence of an upstream, before and between its bytes; longer gets 504 or an error event. */
  readonly silenceTimeoutMs: number;
  /** One request in all; longer gets 504 or an error event. */
  readonly totalTimeoutMs: number;
  /** Silence in a stream after which the guest gets a keep-alive comment. */
  readonly keepAliveIntervalMs: number;
  /** One server-sent event that is held until it is whole; a longer one is passed on in pieces. */
  readonly eventBytesMax: number;
  /** Body of an upstream's error answer; a longer one is replaced by our own text. */
  readonly errorBodyBytesMax: number;
  /** Body of the upstream's model list; a longer one counts as no list. */
  readonly modelListBytesMax: number;
}

export const BRIDGE_LIMITS: BridgeLimits = {
  connectionsMax: 64,
  requestsInFlightMax: 32,
  requestHeaderBytesMax: 16 * KIB,
  requestHeadersMax: 100,
  bodyBytesMax: 32 * MIB,
  bodyTotalBytesMax: 64 * MIB,
  jsonDepthMax: 100,
  jsonContainersMax: 100_000,
  jsonValuesMax: 1_000_000,
  headersTimeoutMs: 10_000,
  bodyTimeoutMs: 60_000,
  idleConnectionTimeoutMs: 120_000,
  stallTimeoutMs: 120_000,
  connectTimeoutMs: 5_000,
  // A long prompt on a CPU may take minutes before its first token.
  silenceTimeoutMs: 600_000,
  totalTimeoutMs: 3_600_000,
  keepAliveIntervalMs: 10_000,
  eventBytesMax: MIB,
  errorBodyBytesMax: 64 * KIB,
  modelListBytesMax: MIB,
};
