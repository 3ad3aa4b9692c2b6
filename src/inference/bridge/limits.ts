/**
 * All limits of the bridge, each with what happens beyond it. A name ends with its unit. Limits apply per port, and so
 * per sandbox, unless noted otherwise.
 */
import { KIB, MIB } from '../../base/units.ts';
export interface BridgeLimits {
  /** Open connections; more are closed immediately. */
  readonly connectionsMax: number;
  /** Requests between their first byte and the end of their answer; more get 429. */
  readonly requestsInFlightMax: number;
  /** Request line and headers of one request; more gets 431. */
  readonly requestHeaderBytesMax: number;
  /** Header lines of one request; more get 431. */
  readonly requestHeadersMax: number;
  /** Body of one request; more gets 413. */
  readonly bodyBytesMax: number;
  /** Memory for all bodies of a port together; more gets 429, as does too much of all ports (`BODY_MEMORY`). */
  readonly bodyTotalBytesMax: number;
  /** Nesting depth of arrays and objects in a body; more gets 400. */
  readonly jsonDepthMax: number;
  /** Objects and arrays in a body; more gets 400. Each takes about a hundred bytes once parsed. */
  readonly jsonContainersMax: number;
  /** Values in a body, e.g. token ids; more gets 400. */
  readonly jsonValuesMax: number;
  /** Keys of all objects in a body; more get 400. Objects with many different keys take the longest to parse. */
  readonly jsonKeysMax: number;
  /** Keys at the top level of a body; more get 400. */
  readonly jsonMembersMax: number;
  /** From the first byte of a request to the end of its headers; longer gets 408. */
  readonly headersTimeoutMs: number;
  /** From the first byte of a request to the end of its body; longer gets 408. */
  readonly bodyTimeoutMs: number;
  /** Bytes dropped after an early answer, so that the client can read it; more closes the connection. */
  readonly lingerBytesMax: number;
  /** Reading and dropping after an early answer; longer closes the connection. */
  readonly lingerTimeoutMs: number;
  /**
   * A connection without a request; longer closes it. Longer than client pools keep a connection, so that they close
   * first.
   */
  readonly idleConnectionTimeoutMs: number;
  /** A guest that stops reading its answer; longer cancels the request. */
  readonly stallTimeoutMs: number;
  /** Replaces `stallTimeoutMs` while other requests wait for the guest's slot of the upstream. */
  readonly slotStallTimeoutMs: number;
  /** Connecting to the upstream; longer gets 503. */
  readonly connectTimeoutMs: number;
  /** Silence of an upstream, before and between bytes; longer gets 504 or an error event. */
  readonly silenceTimeoutMs: number;
  /** A whole request; longer gets 504 or an error event. */
  readonly totalTimeoutMs: number;
  /** Silence in a stream after which the guest gets a keep-alive comment. */
  readonly keepAliveIntervalMs: number;
  /** A server-sent event buffered until it is complete; a longer one is forwarded in pieces. */
  readonly eventBytesMax: number;
  /** A whole answer that is translated; a longer one is `upstream_protocol`. */
  readonly answerBytesMax: number;
  /** From the end of a translated answer to the end of the upstream's; longer closes the upstream's connection. */
  readonly drainTimeoutMs: number;
  /** Body of an upstream's error answer; a longer one is replaced by the bridge's own message. */
  readonly errorBodyBytesMax: number;
  /** Body of the upstream's model list; a longer one is ignored. */
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
  jsonKeysMax: 200_000,
  jsonMembersMax: 1_000,
  headersTimeoutMs: 10_000,
  bodyTimeoutMs: 60_000,
  lingerBytesMax: 64 * MIB,
  lingerTimeoutMs: 30_000,
  idleConnectionTimeoutMs: 120_000,
  stallTimeoutMs: 120_000,
  slotStallTimeoutMs: 20_000,
  connectTimeoutMs: 5_000,
  // A long prompt on a CPU may take minutes before its first token.
  silenceTimeoutMs: 600_000,
  totalTimeoutMs: 3_600_000,
  keepAliveIntervalMs: 10_000,
  eventBytesMax: MIB,
  answerBytesMax: 8 * MIB,
  drainTimeoutMs: 1_000,
  errorBodyBytesMax: 64 * KIB,
  modelListBytesMax: MIB,
};
