import { assert } from '../base/assert.ts';
import { MIB } from '../base/units.ts';

/** Limits of the host end. What the guest sends beyond one of them breaks the protocol. */
export const LIMITS = {
  /** Payload of one frame, either way, bytes. */
  framePayloadBytesMax: 64 * 1024,
  /** A request line to the guest, bytes; what is longer goes as `moreBytes`. */
  requestLineBytesMax: 64 * 1024,
  /** A request's `moreBytes` and `bodyBytes`, bytes each. */
  bodyBytesMax: 16 * MIB,
  /** The welcome line, bytes: 32 KiB of environment that JSON may escape to six times as much. */
  welcomeLineBytesMax: 256 * 1024,
  /** A line of the control connection (hello, ready, events), bytes. */
  controlLineBytesMax: 64 * 1024,
  /** The answer to a request, bytes: `processes` describes up to 128 of them. */
  replyLineBytesMax: MIB,
  /** `OK <n>` of the channel, bytes. */
  handshakeLineBytesMax: 64,
  /** A control frame's JSON is a frame; its texts are cut to this, characters. */
  messageCharactersMax: 500,
  /** Entries of one `list`. The agent cuts at 20 000 and says so. */
  listEntriesMax: 20_001,
  /** One entry or path in a list, bytes. */
  listLineBytesMax: 64 * 1024,
  /** Events taken per second; above that the connection is not read for the rest of the second. */
  eventsPerSecondMax: 200,
  /** What a stream of a process holds before the connection is paused, bytes. */
  streamBytesMax: 256 * 1024,
  /** `GuestFiles.readAll` without `bytesMax`, bytes. */
  readAllBytesMax: 64 * MIB,
  /** From connecting to `OK <n>`, milliseconds. */
  handshakeMsMax: 10_000,
  /** From the request, or the last byte of its content, to the answer, milliseconds. */
  replyMsMax: 60_000,
  /** The same when the request may wait for the warm list; the agent gives up after 180 s. */
  warmReplyMsMax: 240_000,
  /**
   * A program's time limit is its guest's to keep: it has SIGTERM, and SIGKILL 2 s later. A guest that has
   * not told its end so long after the limit stands still, or lies: the host ends it, milliseconds.
   */
  overdueMs: 10_000,
  /** Between two steps of the hello on one connection, milliseconds. */
  helloStepMsMax: 10_000,
} as const;

export const PORTS = { hello: 1024, operations: 5000 } as const;

/** Fixed by what both ends speak; another version is refused by both. */
export const PROTOCOL_VERSION = 1;

export const ENTROPY_BYTES = 64;

assert(LIMITS.framePayloadBytesMax <= LIMITS.streamBytesMax, 'a frame fits into a stream');
assert(LIMITS.listLineBytesMax <= LIMITS.framePayloadBytesMax, 'a list line fits into a frame');
