/**
 * Attributes of netlink (linux/netlink.h, `struct nlattr`): u16 length including these 4 bytes, u16 type with two flags
 * on top, the value, zeros up to a multiple of 4. A value may itself be attributes.
 */
import { LinkError } from './errors.ts';

const HEADER_BYTES = 4;
/** NLA_F_NESTED: the value is attributes. */
const NESTED = 0x8000;
/** NLA_F_NET_BYTEORDER: the value is big-endian. */
const NETWORK_ORDER = 0x4000;
const TYPE_MASK = 0x3fff;
const VALUE_BYTES_MAX = 0xffff - HEADER_BYTES;

export type AttributeSpec = readonly [type: number, value: Uint8Array | readonly AttributeSpec[]];

export interface Attribute {
  /** Without flags. */
  readonly type: number;
  readonly nested: boolean;
  readonly networkOrder: boolean;
  readonly value: Uint8Array;
}

/** @throws RangeError for a value above 65531 bytes */
export function encodeAttributes(attributes: readonly AttributeSpec[]): Uint8Array {
  const parts = attributes.map(([type, value]) =>
    value instanceof Uint8Array ? { type, value } : { type: type | NESTED, value: encodeAttributes(value) },
  );
  const total = parts.reduce((sum, { value }) => sum + HEADER_BYTES + align(value.length), 0);
  const bytes = new Uint8Array(total);
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const { type, value } of parts) {
    if (value.length > VALUE_BYTES_MAX) throw new RangeError(`attribute ${type} has ${value.length} bytes`);
    view.setUint16(at, HEADER_BYTES + value.length, true);
    view.setUint16(at + 2, type, true);
    bytes.set(value, at + HEADER_BYTES);
    at += HEADER_BYTES + align(value.length);
  }
  return bytes;
}

/** The attributes of one level in order, including unknown types. @throws LinkError `malformed` */
export function parseAttributes(bytes: Uint8Array): Attribute[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const attributes: Attribute[] = [];
  for (let at = 0; at < bytes.length; ) {
    const left = bytes.length - at;
    const length = left < HEADER_BYTES ? 0 : view.getUint16(at, true);
    if (length < HEADER_BYTES || length > left)
      throw malformed(`an attribute of ${length} bytes where ${left} are left`);
    const type = view.getUint16(at + 2, true);
    attributes.push({
      type: type & TYPE_MASK,
      nested: (type & NESTED) !== 0,
      networkOrder: (type & NETWORK_ORDER) !== 0,
      value: bytes.subarray(at + HEADER_BYTES, at + length),
    });
    at += align(length);
  }
  return attributes;
}

/** The last value of a type, as the kernel chooses (`nla_parse`). */
export function findAttribute(attributes: readonly Attribute[], type: number): Uint8Array | undefined {
  return attributes.findLast((attribute) => attribute.type === type)?.value;
}

/** @throws LinkError `malformed` */
export function readU32(value: Uint8Array): number {
  if (value.length !== 4) throw malformed(`a u32 of ${value.length} bytes`);
  return new DataView(value.buffer, value.byteOffset, 4).getUint32(0, true);
}

/** Text up to its first zero or the end of the value. Invalid UTF-8 becomes U+FFFD. */
export function readText(value: Uint8Array): string {
  const end = value.indexOf(0);
  return new TextDecoder().decode(end < 0 ? value : value.subarray(0, end));
}

export function u8(value: number): Uint8Array {
  return new Uint8Array([value]);
}

export function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
}

/** Text with a final zero, as interface names need it. */
export function text(value: string): Uint8Array {
  return new TextEncoder().encode(`${value}\0`);
}

function malformed(what: string): LinkError {
  return new LinkError('malformed', `read an answer of the kernel: ${what}`);
}

function align(bytes: number): number {
  return Math.ceil(bytes / 4) * 4;
}
