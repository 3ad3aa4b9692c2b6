/**
 * Routes (RTM_*ROUTE; linux/rtnetlink.h). A body is a `struct rtmsg` and attributes:
 *
 *     0 family u8 · 1 destination's prefix length u8 · 2 source's u8 · 3 TOS u8
 *     4 table u8 · 5 protocol u8 · 6 scope u8 · 7 type u8 · 8 flags u32
 */

import { decodeIp, encodeIp, FAMILY, familyOf } from './address.ts';
import { type AttributeSpec, encodeAttributes, findAttribute, parseAttributes, readU32, u32 } from './attribute.ts';
import { LinkError } from './errors.ts';
import { FLAG } from './message.ts';
import { type Request, withAttributes } from './request.ts';

const ROUTE_TYPE = { new: 24, delete: 25, get: 26 } as const;
const BODY_BYTES = 12;

/** RTA_*. */
const ATTRIBUTE = { destination: 1, linkIndex: 4, gateway: 5, priority: 6, source: 7, table: 15 } as const;

/** RT_TABLE_MAIN, for ordinary routes. */
export const MAIN_TABLE = 254;
/** RTPROT_STATIC: set by an administrator, so routing daemons do not change it. */
const PROTOCOL_STATIC = 4;
/** RT_SCOPE_*. */
const SCOPE = { universe: 0, link: 253, any: 255 } as const;
/** RTN_UNICAST. */
const TYPE_UNICAST = 1;

export interface Route {
  /** CIDR, e.g. `10.0.0.0/30`; `0.0.0.0/0` and `::/0` are default routes. */
  readonly destination: string;
  /** Outgoing link; undefined if there are several or none. */
  readonly linkIndex: number | undefined;
  /** Next hop; undefined if the destination is on the link. */
  readonly gateway: string | undefined;
  /** Source address that the host prefers for its own packets. */
  readonly source: string | undefined;
  readonly table: number;
  /** RTN_*: 1 unicast, 2 local, 3 broadcast, 6 blackhole, 7 unreachable. */
  readonly type: number;
  /** Among equal destinations the lowest wins. */
  readonly priority: number;
}

export interface RouteSpec {
  readonly destination: string;
  readonly linkIndex: number;
  readonly gateway?: string;
  readonly source?: string;
  readonly table?: number;
  readonly priority?: number;
}

/** Requests every route of one table; a kernel before 4.20 answers with all. */
export function dumpRoutes(family: 'ipv4' | 'ipv6', table = MAIN_TABLE): Request {
  const header = { family: FAMILY[family], table: table > 255 ? 0 : table };
  const attributes = [[ATTRIBUTE.table, u32(table)]] as const;
  return { type: ROUTE_TYPE.get, flags: FLAG.dump, body: body(header, attributes) };
}

/** Requests the route of this host's packets to `address`. @throws LinkError `invalid` */
export function lookUpRoute(address: string): Request {
  const ip = encodeIp(address);
  const header = { family: familyOf(ip), destinationBits: ip.length * 8 };
  const attributes = [[ATTRIBUTE.destination, ip]] as const;
  return { type: ROUTE_TYPE.get, flags: 0, body: body(header, attributes) };
}

/** @throws LinkError `invalid` */
export function newRoute(route: RouteSpec): Request {
  const scope = route.gateway === undefined ? SCOPE.link : SCOPE.universe;
  const flags = FLAG.ack | FLAG.create | FLAG.exclusive;
  const header = { protocol: PROTOCOL_STATIC, scope, type: TYPE_UNICAST };
  return { type: ROUTE_TYPE.new, flags, body: bodyOf(route, header) };
}

/** @returns undefined for other families. @throws LinkError `malformed` */
export function parseRoute(bytes: Uint8Array): Route | undefined {
  if (bytes.length < BODY_BYTES) throw new LinkError('malformed', `read a route of ${bytes.length} bytes`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const family = view.getUint8(0);
  const attributes = parseAttributes(bytes.subarray(BODY_BYTES));
  if (family !== FAMILY.ipv4 && family !== FAMILY.ipv6) return undefined;
  const ip = (type: number): string | undefined => {
    const value = findAttribute(attributes, type);
    return value === undefined ? undefined : decodeIp(value);
  };
  const number = (type: number): number | undefined => {
    const value = findAttribute(attributes, type);
    return value === undefined ? undefined : readU32(value);
  };
  const anywhere = family === FAMILY.ipv4 ? '0.0.0.0' : '::';
  return {
    destination: `${ip(ATTRIBUTE.destination) ?? anywhere}/${view.getUint8(1)}`,
    linkIndex: number(ATTRIBUTE.linkIndex),
    gateway: ip(ATTRIBUTE.gateway),
    source: ip(ATTRIBUTE.source),
    table: number(ATTRIBUTE.table) ?? view.getUint8(4),
    type: view.getUint8(7),
    priority: number(ATTRIBUTE.priority) ?? 0,
  };
}

interface Header {
  readonly family?: number;
  readonly destinationBits?: number;
  readonly table?: number;
  readonly protocol?: number;
  readonly scope?: number;
  readonly type?: number;
}

function bodyOf(route: RouteSpec, header: Header): Uint8Array {
  const { destination, linkIndex, gateway, source, table = MAIN_TABLE, priority } = route;
  const { ip, prefixLength } = parseDestination(destination);
  const attributes: AttributeSpec[] = [];
  if (prefixLength > 0) attributes.push([ATTRIBUTE.destination, ip]);
  for (const [type, text] of [
    [ATTRIBUTE.gateway, gateway],
    [ATTRIBUTE.source, source],
  ] as const) {
    const bytes = text === undefined ? undefined : encodeIp(text);
    if (bytes === undefined) continue;
    if (bytes.length !== ip.length)
      throw new LinkError('invalid', `route ${destination} by ${text}, of another family`);
    attributes.push([type, bytes]);
  }
  attributes.push([ATTRIBUTE.linkIndex, u32(linkIndex)]);
  if (priority !== undefined) attributes.push([ATTRIBUTE.priority, u32(priority)]);
  if (table > 255) attributes.push([ATTRIBUTE.table, u32(table)]);
  const small = table > 255 ? 0 : table;
  const family = familyOf(ip);
  return body({ family, destinationBits: prefixLength, table: small, ...header }, attributes);
}

function parseDestination(cidr: string): { ip: Uint8Array; prefixLength: number } {
  const [address = '', bits = '', ...rest] = cidr.split('/');
  const ip = encodeIp(address);
  const prefixLength = Number(bits);
  if (rest.length > 0 || !/^\d{1,3}$/.test(bits) || prefixLength > ip.length * 8)
    throw new LinkError('invalid', `invalid destination "${cidr}"`);
  return { ip, prefixLength };
}

function body(header: Header, attributes: readonly AttributeSpec[]): Uint8Array {
  const { family = 0, destinationBits = 0, table = 0, protocol = 0, scope = 0, type = 0 } = header;
  const struct = new Uint8Array(BODY_BYTES);
  struct.set([family, destinationBits, 0, 0, table, protocol, scope, type]);
  return withAttributes(struct, encodeAttributes(attributes));
}
