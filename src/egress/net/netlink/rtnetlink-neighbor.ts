/**
 * Neighbors: which MAC address an IP address on a link has (RTM_*NEIGH; linux/neighbour.h). A body is a `struct ndmsg`
 * and attributes:
 *
 *     0 family u8 · 1 zeros · 4 index of the link i32 · 8 state u16 · 10 flags u8 · 11 type u8
 */

import { encodeIp, encodeMac, familyOf } from './address.ts';
import { type AttributeSpec, encodeAttributes } from './attribute.ts';
import { FLAG } from './message.ts';
import { type Request, withAttributes } from './request.ts';

const NEIGHBOR_TYPE = { new: 28 } as const;
const BODY_BYTES = 12;

/** NDA_*. */
const ATTRIBUTE = { address: 1, mac: 2, linkIndex: 8 } as const;
/** NUD_PERMANENT: no ARP, and no expiry. */
const PERMANENT = 0x80;

/** Adds or replaces a permanent entry. @throws LinkError `invalid` */
export function setNeighbor(linkIndex: number, address: string, mac: string): Request {
  const ip = encodeIp(address);
  const flags = FLAG.ack | FLAG.create | FLAG.replace;
  const header = { family: familyOf(ip), linkIndex, state: PERMANENT };
  const attributes = [
    [ATTRIBUTE.address, ip],
    [ATTRIBUTE.mac, encodeMac(mac)],
  ] as const;
  return { type: NEIGHBOR_TYPE.new, flags, body: body(header, attributes) };
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
