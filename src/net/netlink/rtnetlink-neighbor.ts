/**
 * Neighbours: which MAC address an IP address on a link has (RTM_*NEIGH; linux/neighbour.h). A body is a
 * `struct ndmsg` and attributes:
 *
 *     0 family u8 · 1 zeros · 4 index of the link i32 · 8 state u16 · 10 flags u8 · 11 type u8
 */

import { decodeIp, decodeMac, encodeIp, encodeMac, FAMILY, familyOf } from './address.ts';
import {
  type AttributeSpec,
  encodeAttributes,
  findAttribute,
  parseAttributes,
  u32,
} from './attribute.ts';
import { LinkError } from './errors.ts';
import { FLAG } from './message.ts';
import { type Request, withAttributes } from './request.ts';

/** RTM_* of neighbours. */
export const NEIGHBOUR_TYPE = { new: 28, delete: 29, get: 30 } as const;
const BODY_BYTES = 12;

/** NDA_*. */
const ATTRIBUTE = { address: 1, mac: 2, linkIndex: 8 } as const;
/** NUD_PERMANENT: never asked for by ARP, never forgotten. */
const PERMANENT = 0x80;

export interface Neighbour {
  readonly linkIndex: number;
  readonly address: string;
  /** Undefined while it is not known. */
  readonly mac: string | undefined;
  readonly permanent: boolean;
}

/** Every IPv4 or IPv6 neighbour of one link, or of all. A kernel before 4.20 answers with all. */
export function dumpNeighbours(family: 'ipv4' | 'ipv6', linkIndex?: number): Request {
  const attributes: AttributeSpec[] =
    linkIndex === undefined ? [] : [[ATTRIBUTE.linkIndex, u32(linkIndex)]];
  const bytes = body({ family: FAMILY[family] }, attributes);
  return { type: NEIGHBOUR_TYPE.get, flags: FLAG.dump, body: bytes };
}

/** A permanent entry; one that is there is replaced. @throws LinkError `invalid` */
export function setNeighbour(linkIndex: number, address: string, mac: string): Request {
  const ip = encodeIp(address);
  const flags = FLAG.ack | FLAG.create | FLAG.replace;
  const header = { family: familyOf(ip), linkIndex, state: PERMANENT };
  const attributes = [
    [ATTRIBUTE.address, ip],
    [ATTRIBUTE.mac, encodeMac(mac)],
  ] as const;
  return { type: NEIGHBOUR_TYPE.new, flags, body: body(header, attributes) };
}

/** @throws LinkError `invalid` */
export function deleteNeighbour(linkIndex: number, address: string): Request {
  const ip = encodeIp(address);
  const bytes = body({ family: familyOf(ip), linkIndex, state: PERMANENT }, [
    [ATTRIBUTE.address, ip],
  ]);
  return { type: NEIGHBOUR_TYPE.delete, flags: FLAG.ack, body: bytes };
}

/** @returns undefined for what is no IP neighbour (bridges answer too). @throws LinkError `malformed` */
export function parseNeighbour(bytes: Uint8Array): Neighbour | undefined {
  if (bytes.length < BODY_BYTES)
    throw new LinkError('malformed', `read a neighbour of ${bytes.length} bytes`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const attributes = parseAttributes(bytes.subarray(BODY_BYTES));
  const ip = findAttribute(attributes, ATTRIBUTE.address);
  if (ip === undefined || (ip.length !== 4 && ip.length !== 16)) return undefined;
  if (familyOf(ip) !== view.getUint8(0)) return undefined;
  const mac = findAttribute(attributes, ATTRIBUTE.mac);
  return {
    linkIndex: view.getInt32(4, true),
    address: decodeIp(ip),
    mac: mac === undefined ? undefined : decodeMac(mac),
    permanent: (view.getUint16(8, true) & PERMANENT) !== 0,
  };
}

function body(
  header: { readonly family: number; readonly linkIndex?: number; readonly state?: number },
  attributes: readonly AttributeSpec[],
): Uint8Array {
  const bytes = new Uint8Array(BODY_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, header.family);
  view.setInt32(4, header.linkIndex ?? 0, true);
  view.setUint16(8, header.state ?? 0, true);
  return withAttributes(bytes, encodeAttributes(attributes));
}
