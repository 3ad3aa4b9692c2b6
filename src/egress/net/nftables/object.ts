/**
 * Counters and quotas of nftables over netlink (linux/netfilter/nf_tables.h), in the form that `nft -j list` prints.
 * Reads names and numbers only: rules need a compiler, which is `nft`. Pure.
 */

import {
  type AttributeSpec,
  encodeAttributes,
  findAttribute,
  parseAttributes,
  readText,
  text,
} from '../netlink/attribute.ts';
import { LinkError } from '../netlink/errors.ts';
import { FLAG } from '../netlink/message.ts';
import { type Request, withAttributes } from '../netlink/request.ts';
import { type NftObject, TABLE_FAMILY, TABLE_NAME } from './json.ts';

/** NFNL_SUBSYS_NFTABLES above NFT_MSG_GETOBJ. */
const GET_OBJECT = (10 << 8) | 19;
/** struct nfgenmsg: u8 family (NFPROTO_INET), u8 version, unused u16. */
const BODY = Uint8Array.of(1, 0, 0, 0);
/** NFTA_OBJ_*. */
const OBJECT = { table: 1, name: 2, type: 3, data: 4 } as const;
/** NFT_OBJECT_*. */
const TYPE = { counter: 1, quota: 2 } as const;
/** NFTA_COUNTER_* and NFTA_QUOTA_*, u64 each. */
const COUNTER = { bytes: 1, packets: 2 } as const;
const QUOTA = { bytes: 1, used: 4 } as const;

export type NftObjectKind = keyof typeof TYPE;

export function getNftObject(kind: NftObjectKind, name: string): Request {
  const named = [OBJECT.name, text(name)] as const;
  return { type: GET_OBJECT, flags: 0, body: body(kind, [named]) };
}

/** Requests all objects of a kind in our table; none if there is no table. */
export function dumpNftObjects(kind: NftObjectKind): Request {
  return { type: GET_OBJECT, flags: FLAG.dump, body: body(kind, []) };
}

function body(kind: NftObjectKind, more: readonly AttributeSpec[]): Uint8Array {
  const type = Uint8Array.of(0, 0, 0, TYPE[kind]);
  const attributes = [[OBJECT.table, text(TABLE_NAME)], ...more, [OBJECT.type, type]] as const;
  return withAttributes(BODY, encodeAttributes(attributes));
}

/** @param bytes body of an answer @returns undefined for another table or kind @throws LinkError `malformed` */
export function parseNftObject(bytes: Uint8Array): NftObject | undefined {
  if (bytes.length < BODY.length) throw new LinkError('malformed', `read an object of ${bytes.length} bytes`);
  const attributes = parseAttributes(bytes.subarray(BODY.length));
  const find = (type: number) => findAttribute(attributes, type);
  const [table, name, type, data] = [OBJECT.table, OBJECT.name, OBJECT.type, OBJECT.data].map(find);
  if (bytes[0] !== BODY[0] || table === undefined || readText(table) !== TABLE_NAME) return undefined;
  if (name === undefined || type === undefined || data === undefined) return undefined;
  const fields = parseAttributes(data);
  const number = (at: number): number => readU64(findAttribute(fields, at));
  const known = { family: TABLE_FAMILY, name: readText(name), table: TABLE_NAME };
  if (type.at(-1) === TYPE.counter) {
    const counts = { packets: number(COUNTER.packets), bytes: number(COUNTER.bytes) };
    return { counter: { ...known, ...counts } };
  }
  if (type.at(-1) !== TYPE.quota) return undefined;
  return { quota: { ...known, bytes: number(QUOTA.bytes), used: number(QUOTA.used) } };
}

/** Big-endian, like everything of nftables. Rounded above 2^53, nine petabytes. */
function readU64(value: Uint8Array | undefined): number {
  if (value === undefined) return 0;
  if (value.length !== 8) throw new LinkError('malformed', `read a u64 of ${value.length} bytes`);
  return Number(new DataView(value.buffer, value.byteOffset, 8).getBigUint64(0));
}
