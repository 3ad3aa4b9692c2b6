/**
 * Addresses of links (RTM_*ADDR; linux/if_addr.h). A body is a `struct ifaddrmsg` and attributes:
 *
 *     0 family u8 · 1 prefix length u8 · 2 flags u8 · 3 scope u8 · 4 index of the link u32
 */

import { decodeIp, encodeIp, familyOf } from './address.ts';
import { type AttributeSpec, encodeAttributes, findAttribute, parseAttributes } from './attribute.ts';
import { LinkError } from './errors.ts';
import { FLAG } from './message.ts';
import { type Request, withAttributes } from './request.ts';

const ADDRESS_TYPE = { new: 20, delete: 21, get: 22 } as const;
const BODY_BYTES = 8;

/** IFA_*. On a point-to-point link `address` is the peer's; on others both are equal. */
const ATTRIBUTE = { address: 1, local: 2 } as const;

export interface LinkAddress {
  readonly linkIndex: number;
  /** The host's own address. */
  readonly address: string;
  /** 0 to 32 or 128. */
  readonly prefixLength: number;
}

/** Requests the addresses of one link, or of all. A kernel before 4.20 answers with all. */
export function dumpAddresses(linkIndex = 0): Request {
  return { type: ADDRESS_TYPE.get, flags: FLAG.dump, body: body(0, 0, linkIndex, []) };
}

/** @throws LinkError `invalid` */
export function newAddress(address: LinkAddress): Request {
  const flags = FLAG.ack | FLAG.create | FLAG.exclusive;
  return { type: ADDRESS_TYPE.new, flags, body: bodyOf(address) };
}

/** @returns undefined for a family other than IPv4 and IPv6. @throws LinkError `malformed` */
export function parseAddress(bytes: Uint8Array): LinkAddress | undefined {
  if (bytes.length < BODY_BYTES) throw new LinkError('malformed', `read an address of ${bytes.length} bytes`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const attributes = parseAttributes(bytes.subarray(BODY_BYTES));
  const value = findAttribute(attributes, ATTRIBUTE.local) ?? findAttribute(attributes, ATTRIBUTE.address);
  if (value === undefined || (value.length !== 4 && value.length !== 16)) return undefined;
  if (familyOf(value) !== view.getUint8(0)) return undefined;
  return { linkIndex: view.getUint32(4, true), address: decodeIp(value), prefixLength: view.getUint8(1) };
}

function bodyOf({ linkIndex, address, prefixLength }: LinkAddress): Uint8Array {
  const ip = encodeIp(address);
  if (!Number.isInteger(prefixLength) || prefixLength < 0 || prefixLength > ip.length * 8)
    throw new LinkError('invalid', `invalid address ${address}/${prefixLength}`);
  return body(familyOf(ip), prefixLength, linkIndex, [
    [ATTRIBUTE.local, ip],
    [ATTRIBUTE.address, ip],
  ]);
}

function body(
  family: number,
  prefixLength: number,
  linkIndex: number,
  attributes: readonly AttributeSpec[],
): Uint8Array {
  const bytes = new Uint8Array(BODY_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, family);
  view.setUint8(1, prefixLength);
  view.setUint32(4, linkIndex, true);
  return withAttributes(bytes, encodeAttributes(attributes));
}
