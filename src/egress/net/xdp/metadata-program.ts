/**
 * An XDP program that drops packets to metadata services as they leave a guest's TAP, before the packet filter and
 * independent of it. Pure.
 *
 *     Ethernet ─┬─ VLAN tag, or an IP header that is cut off ──► drop, counted as unreadable
 *               ├─ IPv4, IPv6 to a metadata block ─────────────► drop, counted
 *               └─ everything else, ARP included ──────────────► to the packet filter
 */
import type { Cidr } from '../addresses/addresses.ts';
import { METADATA_BLOCKS } from '../addresses/metadata.ts';
import { Assembler, type Register } from './assembler.ts';

/** enum xdp_action (linux/bpf.h). */
export const XDP = { drop: 1, pass: 2 } as const;
/** Value per link index: u64 packets to metadata services, u64 unreadable ones. */
export const COUNTS_BYTES = 16;
const UNREADABLE_AT = 8;

const ETHERNET_BYTES = 14;
const ETHERTYPE_AT = 12;
const ETHERTYPE = { ipv4: 0x0800, ipv6: 0x86dd, vlan: 0x8100, serviceVlan: 0x88a8 } as const;
/** Offset of the destination in the frame, and length of the header without options. */
const IPV4 = { destinationAt: ETHERNET_BYTES + 16, headerBytes: 20 } as const;
const IPV6 = { destinationAt: ETHERNET_BYTES + 24, headerBytes: 40 } as const;

/** struct xdp_md, u32 each. */
const CONTEXT = { data: 0, dataEnd: 4, linkIndex: 12 } as const;
const KEY_AT = -4;
const [verdict, context, data, end, scratch] = [0, 1, 2, 3, 4] as const satisfies readonly Register[];
const WORDS = [5, 6, 7, 8] as const;
const IPV6_BITS = 128n;
const MASK_32 = 0xffff_ffffn;

/** The deciding bits of an IPv6 address, and their values. */
export interface Pattern {
  readonly mask: bigint;
  readonly value: bigint;
}

/**
 * The IPv4 addresses inside IPv6 addresses, as in `facesOf`: a fixed part, and the positions of the pieces of the IPv4
 * address, in bits from the left.
 */
interface Embedding {
  readonly fixed: readonly { readonly at: number; readonly bits: number; readonly value: bigint }[];
  readonly pieces: readonly { readonly at: number; readonly bits: number }[];
  readonly inverted?: true;
}

const LOCAL_NAT64 = [{ at: 0, bits: 48, value: 0x64_ff9b_0001n }];
const last32 = [{ at: 96, bits: 32 }];
const EMBEDDINGS: readonly Embedding[] = [
  // Compatible, mapped, translated, NAT64.
  ...[0n, 0xffffn, 0xffff_0000n, 0x64_ff9bn << 64n].map((value) => ({
    fixed: [{ at: 0, bits: 96, value }],
    pieces: last32,
  })),
  ...[
    [
      { at: 48, bits: 16 },
      { at: 72, bits: 16 },
    ],
    [
      { at: 56, bits: 8 },
      { at: 72, bits: 24 },
    ],
    [{ at: 72, bits: 32 }],
    last32,
  ].map((pieces) => ({ fixed: LOCAL_NAT64, pieces })),
  // 6to4, Teredo's server and client, ISATAP.
  { fixed: [{ at: 0, bits: 16, value: 0x2002n }], pieces: [{ at: 16, bits: 32 }] },
  { fixed: [{ at: 0, bits: 32, value: 0x2001_0000n }], pieces: [{ at: 32, bits: 32 }] },
  { fixed: [{ at: 0, bits: 32, value: 0x2001_0000n }], pieces: last32, inverted: true },
  ...[0x5efen, 0x0200_5efen].map((value) => ({ fixed: [{ at: 64, bits: 32, value }], pieces: last32 })),
];

/** Patterns of all IPv6 addresses that are in these blocks themselves or contain an IPv4 address that is. */
export function ipv6Patterns(blocks: readonly Cidr[]): Pattern[] {
  return blocks.flatMap(({ family, base, prefix }) => {
    if (family === 4) return EMBEDDINGS.map((each) => embed(each, base, prefix));
    const mask = ones(prefix) << (IPV6_BITS - BigInt(prefix));
    return [{ mask, value: base }];
  });
}

function embed({ fixed, pieces, inverted }: Embedding, base: bigint, prefix: number): Pattern {
  let pattern: Pattern = { mask: 0n, value: 0n };
  const put = (at: number, bits: number, mask: bigint, value: bigint): void => {
    const shift = IPV6_BITS - BigInt(at + bits);
    pattern = { mask: pattern.mask | (mask << shift), value: pattern.value | ((value & mask) << shift) };
  };
  for (const { at, bits, value } of fixed) put(at, bits, ones(bits), value);
  const mask4 = ones(prefix) << BigInt(32 - prefix);
  const value4 = inverted === true ? base ^ MASK_32 : base;
  let left = 32;
  for (const { at, bits } of pieces) {
    left -= bits;
    const part = (of: bigint): bigint => (of >> BigInt(left)) & ones(bits);
    put(at, bits, part(mask4), part(value4));
  }
  return pattern;
}

/**
 * One program for all links. On a link that is not in the map, it drops without counting.
 * @param mapFd of a map from u32 to values of `COUNTS_BYTES`
 * @returns instructions for `loadXdp`
 */
export function metadataProgram(mapFd: number, blocks = METADATA_BLOCKS): Uint8Array<ArrayBuffer> {
  const code = new Assembler();
  code.loadWord(data, context, CONTEXT.data).loadWord(end, context, CONTEXT.dataEnd);
  reaches(code, ETHERNET_BYTES);
  code.loadHalf(WORDS[0], data, ETHERTYPE_AT).swap(WORDS[0], 16);
  for (const type of [ETHERTYPE.vlan, ETHERTYPE.serviceVlan]) code.jumpIfEqual32(WORDS[0], type, 'unreadable');
  code.jumpIfEqual32(WORDS[0], ETHERTYPE.ipv6, 'ipv6');
  code.jumpIfNotEqual32(WORDS[0], ETHERTYPE.ipv4, 'pass');

  reaches(code, ETHERNET_BYTES + IPV4.headerBytes);
  code.loadWord(WORDS[0], data, IPV4.destinationAt).swap(WORDS[0], 32);
  for (const { family, base, prefix } of blocks) {
    if (family !== 4) continue;
    code.move32(scratch, WORDS[0]).and32(scratch, Number(ones(prefix) << BigInt(32 - prefix)));
    code.jumpIfEqual32(scratch, Number(base), 'metadata');
  }
  code.jump('pass');

  code.label('ipv6');
  reaches(code, ETHERNET_BYTES + IPV6.headerBytes);
  for (const [index, word] of WORDS.entries()) code.loadWord(word, data, IPV6.destinationAt + 4 * index).swap(word, 32);
  for (const [index, pattern] of ipv6Patterns(blocks).entries()) matches(code, pattern, `no ${index}`);
  code.jump('pass');

  count(code.label('metadata'), mapFd, 0);
  count(code.label('unreadable'), mapFd, UNREADABLE_AT);
  code.label('drop').set32(verdict, XDP.drop).exit();
  code.label('pass').set32(verdict, XDP.pass).exit();
  return code.assemble();
}

function reaches(code: Assembler, bytes: number): void {
  code.move(scratch, data).add(scratch, bytes).jumpIfGreater(scratch, end, 'unreadable');
}

function matches(code: Assembler, { mask, value }: Pattern, otherwise: string): void {
  for (const [index, word] of WORDS.entries()) {
    const shift = BigInt(96 - 32 * index);
    const wordMask = Number((mask >> shift) & MASK_32);
    if (wordMask === 0) continue;
    code.move32(scratch, word).and32(scratch, wordMask);
    code.jumpIfNotEqual32(scratch, Number((value >> shift) & MASK_32), otherwise);
  }
  code.jump('metadata').label(otherwise);
}

function count(code: Assembler, mapFd: number, at: number): void {
  code.loadWord(scratch, context, CONTEXT.linkIndex).storeOnStack(scratch, KEY_AT);
  code.lookUp(mapFd, KEY_AT).jumpIfZero(verdict, 'drop');
  code.set32(scratch, 1).atomicAdd64(verdict, at, scratch).jump('drop');
}

export interface MetadataDrops {
  readonly metadata: number;
  /** Packets with a VLAN tag, or a truncated header. */
  readonly unreadable: number;
}

export function readDrops(value: DataView): MetadataDrops {
  const at = (offset: number): number => Number(value.getBigUint64(offset, true));
  return { metadata: at(0), unreadable: at(UNREADABLE_AT) };
}

function ones(bits: number): bigint {
  return (1n << BigInt(bits)) - 1n;
}
