/**
 * Links (RTM_*LINK; linux/if_link.h). A body is a `struct ifinfomsg` and attributes:
 *
 *     0 family u8 · 1 zero · 2 hardware type u16 · 4 index i32 · 8 flags u32 · 12 mask of flags u32
 */

import { decodeMac, encodeMac } from './address.ts';
import {
  type AttributeSpec,
  encodeAttributes,
  findAttribute,
  parseAttributes,
  readText,
  readU32,
  text,
  u32,
} from './attribute.ts';
import { LinkError } from './errors.ts';
import { FLAG } from './message.ts';
import { type Request, withAttributes } from './request.ts';

/** RTM_* of links. */
export const LINK_TYPE = { new: 16, delete: 17, get: 18, set: 19 } as const;
const BODY_BYTES = 16;

/** IFLA_* and, inside `linkInfo`, IFLA_INFO_*. */
const ATTRIBUTE = {
  mac: 1,
  name: 3,
  mtu: 4,
  peer: 5,
  master: 10,
  linkInfo: 18,
  alias: 20,
  group: 27,
  namespaceFd: 28,
  extensionMask: 29,
  xdp: 43,
  newIndex: 49,
} as const;
const INFO_KIND = 1;
/** Inside `xdp`: IFLA_XDP_*. */
const XDP = { fd: 1, flags: 3, programId: 4 } as const;
/** XDP_FLAGS_UPDATE_IF_NOEXIST and XDP_FLAGS_SKB_MODE: for every packet of any size and driver. */
const XDP_FLAGS = 1 | 2;

/** IFF_* (linux/if.h). */
const IFF = { up: 0x1, loopback: 0x8, lowerUp: 0x10000 } as const;
/** RTEXT_FILTER_SKIP_STATS: counters make up most of an answer. */
const SKIP_STATISTICS = 8;

/** IFNAMSIZ and IFALIASZ, without their final zero. */
export const NAME_BYTES_MAX = 15;
const ALIAS_BYTES_MAX = 255;
/** A subset of `dev_valid_name` that needs no quotes and has no template (`%`). */
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]*$/;

export interface Link {
  /** Number of the link in its namespace; not reused while the namespace lives. */
  readonly index: number;
  readonly name: string;
  /** True if it was set up. */
  readonly up: boolean;
  /** True if its other end is open: a TAP without an open descriptor has no carrier. */
  readonly carrier: boolean;
  readonly loopback: boolean;
  readonly mtu: number;
  readonly mac: string | undefined;
  /** Free text, which marks our links. */
  readonly alias: string | undefined;
  /** Driver, e.g. `tun`, `veth`; undefined for hardware. */
  readonly kind: string | undefined;
  readonly xdpProgramId: number | undefined;
}

/** Changes of a link. Absent fields stay. */
export interface LinkChange {
  readonly up?: boolean;
  readonly mtu?: number;
  readonly mac?: string;
  /** At most 255 bytes; '' removes it. */
  readonly alias?: string;
  readonly name?: string;
  /** For removing many links at once; 0 for none. */
  readonly group?: number;
}

export function dumpLinks(): Request {
  const mask = [[ATTRIBUTE.extensionMask, u32(SKIP_STATISTICS)]] as const;
  return { type: LINK_TYPE.get, flags: FLAG.dump, body: body({}, mask) };
}

/** One link, by its name or index. @throws LinkError `invalid` */
export function getLink(which: string | number): Request {
  const mask = [ATTRIBUTE.extensionMask, u32(SKIP_STATISTICS)] as const;
  if (typeof which === 'number') return { type: LINK_TYPE.get, flags: 0, body: body({ index: which }, [mask]) };
  return { type: LINK_TYPE.get, flags: 0, body: body({}, [nameAttribute(which), mask]) };
}

/** @throws LinkError `invalid` */
export function changeLink(index: number, change: LinkChange): Request {
  const attributes: AttributeSpec[] = [];
  if (change.name !== undefined) attributes.push(nameAttribute(change.name));
  if (change.mtu !== undefined) attributes.push([ATTRIBUTE.mtu, u32(change.mtu)]);
  if (change.mac !== undefined) attributes.push([ATTRIBUTE.mac, encodeMac(change.mac)]);
  if (change.alias !== undefined) attributes.push([ATTRIBUTE.alias, aliasBytes(change.alias)]);
  if (change.group !== undefined) attributes.push([ATTRIBUTE.group, u32(change.group)]);
  const flags = change.up === undefined ? {} : { flags: change.up ? IFF.up : 0, mask: IFF.up };
  return { type: LINK_TYPE.set, flags: FLAG.ack, body: body({ index, ...flags }, attributes) };
}

/** Attaches an XDP program to a link that has none. The program is removed with the link. */
export function attachXdp(index: number, programFd: number): Request {
  const xdp: AttributeSpec[] = [
    [XDP.fd, u32(programFd)],
    [XDP.flags, u32(XDP_FLAGS)],
  ];
  return { type: LINK_TYPE.set, flags: FLAG.ack, body: body({ index }, [[ATTRIBUTE.xdp, xdp]]) };
}

/** For a kind without data, e.g. `dummy`; not for TAPs. @throws LinkError `invalid` */
export function newLink(name: string, kind: string): Request {
  const info: AttributeSpec = [ATTRIBUTE.linkInfo, [[INFO_KIND, new TextEncoder().encode(kind)]]];
  const flags = FLAG.ack | FLAG.create | FLAG.exclusive;
  return { type: LINK_TYPE.new, flags, body: body({}, [nameAttribute(name), info]) };
}

/**
 * Moves a link to another network namespace with its name and, since Linux 5.16, its index; before, the kernel may
 * choose another. Afterwards the link is down, without addresses, routes and neighbors.
 */
export function moveLink(index: number, namespaceFd: number): Request {
  const attributes: AttributeSpec[] = [
    [ATTRIBUTE.namespaceFd, u32(namespaceFd)],
    [ATTRIBUTE.newIndex, u32(index)],
  ];
  return { type: LINK_TYPE.set, flags: FLAG.ack, body: body({ index }, attributes) };
}

export function deleteLink(index: number): Request {
  return { type: LINK_TYPE.delete, flags: FLAG.ack, body: body({ index }, []) };
}

/** Deletes all links of a group at once. The kernel refuses group 0, which contains all other links. */
export function deleteGroup(group: number): Request {
  const attributes = [[ATTRIBUTE.group, u32(group)]] as const;
  return { type: LINK_TYPE.delete, flags: FLAG.ack, body: body({}, attributes) };
}

/** @throws LinkError `malformed` */
export function parseLink(bytes: Uint8Array): Link {
  if (bytes.length < BODY_BYTES) throw new LinkError('malformed', `read a link of ${bytes.length} bytes`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const attributes = parseAttributes(bytes.subarray(BODY_BYTES));
  const find = (type: number) => findAttribute(attributes, type);
  const flags = view.getUint32(8, true);
  const [name, mtu, mac, alias, info, xdp] = [
    find(ATTRIBUTE.name),
    find(ATTRIBUTE.mtu),
    find(ATTRIBUTE.mac),
    find(ATTRIBUTE.alias),
    find(ATTRIBUTE.linkInfo),
    find(ATTRIBUTE.xdp),
  ];
  const kind = info && findAttribute(parseAttributes(info), INFO_KIND);
  const xdpProgram = xdp && findAttribute(parseAttributes(xdp), XDP.programId);
  return {
    index: view.getInt32(4, true),
    name: name === undefined ? '' : readText(name),
    up: (flags & IFF.up) !== 0,
    carrier: (flags & IFF.lowerUp) !== 0,
    loopback: (flags & IFF.loopback) !== 0,
    mtu: mtu === undefined ? 0 : readU32(mtu),
    mac: mac === undefined ? undefined : decodeMac(mac),
    alias: alias === undefined ? undefined : readText(alias),
    kind: kind === undefined ? undefined : readText(kind),
    xdpProgramId: xdpProgram === undefined ? undefined : readU32(xdpProgram),
  };
}

/** True for a valid link name that needs no quotes in a shell. */
export function isLinkName(name: string): boolean {
  return name.length <= NAME_BYTES_MAX && NAME.test(name);
}

function nameAttribute(name: string): AttributeSpec {
  if (!isLinkName(name)) throw new LinkError('invalid', `invalid link name "${name}"`);
  return [ATTRIBUTE.name, text(name)];
}

/** Without a final zero: the kernel uses the attribute's length (`dev_set_alias`). */
function aliasBytes(alias: string): Uint8Array {
  const bytes = new TextEncoder().encode(alias);
  if (bytes.length > ALIAS_BYTES_MAX || bytes.includes(0))
    throw new LinkError('invalid', `set an alias of ${bytes.length} bytes: too long`);
  return bytes;
}

function body(
  header: { readonly index?: number; readonly flags?: number; readonly mask?: number },
  attributes: readonly AttributeSpec[],
): Uint8Array {
  const bytes = new Uint8Array(BODY_BYTES);
  const view = new DataView(bytes.buffer);
  view.setInt32(4, header.index ?? 0, true);
  view.setUint32(8, header.flags ?? 0, true);
  view.setUint32(12, header.mask ?? 0, true);
  return withAttributes(bytes, encodeAttributes(attributes));
}
