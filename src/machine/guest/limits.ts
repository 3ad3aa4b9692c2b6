import { assert } from '../../base/assert.ts';
import { MIB } from '../../base/units.ts';

/** Limits of the host end. A guest that exceeds one of them breaks the protocol. */
export const GUEST_LIMITS = {
  /** Payload of one frame, either way, bytes. */
  framePayloadBytesMax: 64 * 1024,
  /** A request line to the guest, bytes; longer requests go as `moreBytes`. */
  requestLineBytesMax: 64 * 1024,
  /** A request's `moreBytes` and `bodyBytes`, bytes each. */
  bodyBytesMax: 16 * MIB,
  /** A line of the control connection (hello, ready, events), bytes. */
  controlLineBytesMax: 64 * 1024,
  /** The answer to a request, bytes: `processes` describes up to 128 processes. */
  replyLineBytesMax: MIB,
  /** `OK <n>` of the channel, bytes. */
  handshakeLineBytesMax: 64,
  /** Texts from the guest are cut to this, characters. */
  messageCharactersMax: 500,
  /** Entries of one `list`. The agent cuts at 20 000 and marks the cut. */
  listEntriesMax: 20_001,
  /** Lines of one `list` together, bytes. */
  listBytesMax: 8 * MIB,
  /** File name, bytes, as in Linux. */
  fileNameBytesMax: 255,
  /** Path or link target, bytes, as in Linux. */
  pathBytesMax: 4096,
  /** One text of a file's metadata, bytes. */
  metadataBytesMax: 8 * 1024,
  /** One entry or path in a list, bytes. */
  listLineBytesMax: 64 * 1024,
  /** Events read per second; above that the connection pauses for the rest of the second. */
  eventsPerSecondMax: 200,
  /** The same for one watch of a directory. */
  watchEventsPerSecondMax: 10_000,
  /** Buffer of one stream of a process; when full, the connection is paused, bytes. */
  streamBytesMax: 256 * 1024,
  /** Output of one stream that an agent keeps, bytes. */
  keptBytesMax: 64 * 1024,
  /** `GuestFiles.readAll` without `bytesMax`, bytes. */
  readAllBytesMax: 64 * MIB,
  /** From connecting to `OK <n>`, milliseconds. */
  handshakeMsMax: 10_000,
  /** From the request, or the last byte of its content, to the answer, milliseconds. */
  replyMsMax: 60_000,
  /** The same for a request that may wait for the warm list; the agent gives up after 180 s. */
  warmReplyMsMax: 240_000,
  /**
   * Time in milliseconds after a program's timeout for the guest to report its end: SIGTERM, and SIGKILL 2 s later. A
   * guest that does not hangs or lies, so the host reports the timeout instead.
   */
  overdueMs: 10_000,
  /** Concurrent connections that get the answer that another agent is linked; more are reset. */
  busyConnectionsMax: 8,
  /** Limits in bytes and milliseconds of what such a connection may still send before it is reset. */
  busyBytesMax: 64 * 1024,
  busyMsMax: 2_000,
  /** Time between two steps of the hello on one connection, milliseconds. */
  helloStepMsMax: 10_000,
} as const;

export const PORTS = { hello: 1024, inference: 1025, packages: 1026, operations: 5000 } as const;

/** Both ends refuse another version. */
export const PROTOCOL_VERSION = 1;

assert(GUEST_LIMITS.framePayloadBytesMax <= GUEST_LIMITS.streamBytesMax, 'a frame fits into a stream');
assert(GUEST_LIMITS.listLineBytesMax <= GUEST_LIMITS.framePayloadBytesMax, 'a list line fits into a frame');
