/**
 * Netlink messages (RFC 3549 section 2.3.2; linux/netlink.h), in host byte order, which is little-endian on every
 * supported machine:
 *
 *     0 length u32, with these 16 bytes · 4 type u16 · 6 flags u16 · 8 sequence u32 · 12 port id u32
 *     16 body, then zeros up to a multiple of 4
 */

import { type Attribute, findAttribute, parseAttributes, readText, readU32 } from './attribute.ts';
import { LinkError } from './errors.ts';

export const MESSAGE_HEADER_BYTES = 16;

/** NLMSG_*: messages of every family. */
export const CONTROL = { noop: 1, error: 2, done: 3, overrun: 4 } as const;

/** NLM_F_*. Some bits have different meanings in a "new", a "get" and an answer. */
export const FLAG = {
  request: 0x1,
  /** An answer in several messages, ended by DONE. */
  multi: 0x2,
  ack: 0x4,
  /** The table changed during the dump: entries may be missing or repeated. */
  dumpInterrupted: 0x10,
  dump: 0x300,
  /** For "new": replace an existing entry. */
  replace: 0x100,
  /** For "new": fail if it exists. */
  exclusive: 0x200,
  create: 0x400,
  /** For an acknowledgement: it does not repeat the request. */
  capped: 0x100,
  /** For an acknowledgement: attributes follow. */
  ackAttributes: 0x200,
} as const;

export interface Message {
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  readonly portId: number;
  readonly body: Uint8Array;
}

/** @param body its length need not be a multiple of 4 */
export function encodeMessage(message: Message): Uint8Array {
  const length = MESSAGE_HEADER_BYTES + message.body.length;
  const bytes = new Uint8Array(align(length));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, length, true);
  view.setUint16(4, message.type, true);
  view.setUint16(6, message.flags, true);
  view.setUint32(8, message.sequence, true);
  view.setUint32(12, message.portId, true);
  bytes.set(message.body, MESSAGE_HEADER_BYTES);
  return bytes;
}

/** All messages of one datagram. Bodies are views of `bytes`. @throws LinkError `malformed` */
export function parseMessages(bytes: Uint8Array): Message[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const messages: Message[] = [];
  for (let at = 0; at < bytes.length; ) {
    const left = bytes.length - at;
    if (left < MESSAGE_HEADER_BYTES) throw malformed(`${left} bytes after the last message`);
    const length = view.getUint32(at, true);
    if (length < MESSAGE_HEADER_BYTES || length > left)
      throw malformed(`a message of ${length} bytes where ${left} are left`);
    messages.push({
      type: view.getUint16(at + 4, true),
      flags: view.getUint16(at + 6, true),
      sequence: view.getUint32(at + 8, true),
      portId: view.getUint32(at + 12, true),
      body: bytes.subarray(at + MESSAGE_HEADER_BYTES, at + length),
    });
    at += align(length);
  }
  return messages;
}

export interface Acknowledgement {
  /** 0 for success, else the positive errno of the refusal. */
  readonly errno: number;
  /** The kernel's text for a refusal (NLMSGERR_ATTR_MSG), or a warning if `errno` is 0. */
  readonly text?: string;
  /** Byte of the request that the kernel rejects (NLMSGERR_ATTR_OFFS). */
  readonly offset?: number;
}

/** NLMSGERR_ATTR_*. */
const ACK_ATTRIBUTE = { text: 1, offset: 2 } as const;

/**
 * The body of `CONTROL.error`: i32 −errno, the header of the request, its body unless `FLAG.capped`, then attributes
 * with `FLAG.ackAttributes`. The body of `CONTROL.done`: i32 −errno, then attributes.
 * @throws LinkError `malformed`
 */
export function parseAcknowledgement(message: Message): Acknowledgement {
  const { body, flags, type } = message;
  if (body.length < 4) throw malformed('an acknowledgement without errno');
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  const errno = 0 - view.getInt32(0, true);
  if (errno < 0) throw malformed(`an acknowledgement with errno ${errno}`);
  const attributes = (flags & FLAG.ackAttributes) === 0 ? [] : parseAttributes(body.subarray(attributesAt()));
  return { errno, ...textOf(attributes), ...offsetOf(attributes) };

  function attributesAt(): number {
    if (type === CONTROL.done) return 4;
    if (body.length < 4 + MESSAGE_HEADER_BYTES) throw malformed('an acknowledgement of nothing');
    if ((flags & FLAG.capped) !== 0) return 4 + MESSAGE_HEADER_BYTES;
    const requestBytes = view.getUint32(4, true);
    const end = 4 + align(requestBytes);
    if (requestBytes < MESSAGE_HEADER_BYTES || end > body.length)
      throw malformed(`an acknowledgement of a request of ${requestBytes} bytes`);
    return end;
  }
}

function textOf(attributes: readonly Attribute[]): { text?: string } {
  const value = findAttribute(attributes, ACK_ATTRIBUTE.text);
  return value === undefined ? {} : { text: readText(value) };
}

function offsetOf(attributes: readonly Attribute[]): { offset?: number } {
  const value = findAttribute(attributes, ACK_ATTRIBUTE.offset);
  return value === undefined ? {} : { offset: readU32(value) };
}

function malformed(what: string): LinkError {
  return new LinkError('malformed', `read an answer of the kernel: ${what}`);
}

function align(bytes: number): number {
  return Math.ceil(bytes / 4) * 4;
}
