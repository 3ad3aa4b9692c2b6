/**
 * IPv4 and IPv6 addresses, blocks and ranges as numbers, so that checks do not depend on how an address is written.
 * Pure.
 */

export type Family = 4 | 6;

export interface IpAddress {
  readonly family: Family;
  /** In network order: 0 … 2^32−1 or 2^128−1. */
  readonly value: bigint;
}

/** An address block; bits of `base` beyond `prefix` are 0. */
export interface Cidr {
  readonly family: Family;
  readonly base: bigint;
  /** Number of significant leading bits: 0 … 32 or 128. */
  readonly prefix: number;
}

/** Both ends are inclusive. */
export interface AddressRange {
  readonly family: Family;
  readonly first: bigint;
  readonly last: bigint;
}

/** Limit for parsing; the longest valid form, IPv6 with an embedded dotted quad, has 45. */
const ADDRESS_CHARACTERS_MAX = 64;
const BITS = { 4: 32, 6: 128 } as const;

/** Accepts the one canonical spelling of IPv4 (four decimal numbers), and any of IPv6 (RFC 4291 section 2.2). */
export function parseAddress(text: string): IpAddress | undefined {
  if (text.length > ADDRESS_CHARACTERS_MAX) return undefined;
  const value = text.includes(':') ? parseIpv6(text) : parseDottedQuad(text);
  if (value === undefined) return undefined;
  return { family: text.includes(':') ? 6 : 4, value };
}

/**
 * Accepts every spelling that some program reads as an address: those of inet_aton(3) (decimal, hex, octal, fewer than
 * four parts), full-width digits and dots as in URLs, IPv6 in brackets and with a zone. Returns an IPv4-mapped address
 * as IPv4. A trailing dot makes a name, not an address.
 */
export function readAddress(text: string): IpAddress | undefined {
  if (text.length > ADDRESS_CHARACTERS_MAX) return undefined;
  const plain = text.normalize('NFKC').replaceAll('\u3002', '.');
  const inner = /^\[(.*)\]$/.exec(plain)?.[1] ?? plain;
  const withoutZone = inner.includes(':') ? inner.replace(/%.*$/, '') : inner;
  const strict = parseAddress(withoutZone);
  if (strict !== undefined) return unmapped(strict);
  const value = parseLooseIpv4(withoutZone);
  return value === undefined ? undefined : { family: 4, value };
}

/** `::ffff:a.b.c.d` is the same socket address as `a.b.c.d` (RFC 4291 section 2.5.5.2). */
export function unmapped(address: IpAddress): IpAddress {
  const mapped = address.family === 6 && address.value >> 32n === 0xffffn;
  return mapped ? { family: 4, value: low32(address.value) } : address;
}

/**
 * The address and each IPv4 address that a translator or tunnel may send it to: mapped and compatible (RFC 4291),
 * translated (RFC 7915), NAT64 (RFC 6052, RFC 8215), 6to4 (RFC 3056), Teredo (RFC 4380), ISATAP (RFC 5214). A
 * check that denies must consider all of them.
 */
export function facesOf(address: IpAddress): readonly IpAddress[] {
  const own = unmapped(address);
  if (own.family === 4) return [own];
  const v = own.value;
  const inside: bigint[] = [];
  const top96 = v >> 32n;
  if (top96 === 0n && v > 1n) inside.push(low32(v));
  if (top96 === 0xffff_0000n) inside.push(low32(v));
  if (top96 === 0x64_ff9bn << 64n) inside.push(low32(v));
  if (v >> 80n === 0x64_ff9b_0001n) inside.push(...nat64Local(v));
  if (v >> 112n === 0x2002n) inside.push(low32(v >> 80n));
  if (v >> 96n === 0x2001_0000n) inside.push(low32(v >> 64n), low32(v) ^ 0xffff_ffffn);
  const interfaceTop = low32(v >> 32n);
  if (interfaceTop === 0x5efen || interfaceTop === 0x0200_5efen) inside.push(low32(v));
  return [own, ...inside.map((value): IpAddress => ({ family: 4, value }))];
}

/** 64:ff9b:1::/48 may be divided into prefixes of 48, 56, 64 or 96 bits; bits 64–71 stay 0 (RFC 6052 2.2). */
function nat64Local(v: bigint): bigint[] {
  const bits = (from: number, count: number): bigint =>
    (v >> BigInt(128 - from - count)) & ((1n << BigInt(count)) - 1n);
  return [(bits(48, 16) << 16n) | bits(72, 16), (bits(56, 8) << 24n) | bits(72, 24), bits(72, 32), low32(v)];
}

/** Returns a dotted quad, or IPv6 as in RFC 5952. */
export function formatAddress({ family, value }: IpAddress): string {
  if (family === 4) {
    return [24n, 16n, 8n, 0n].map((shift) => String((value >> shift) & 0xffn)).join('.');
  }
  const groups = Array.from({ length: 8 }, (_, i) => Number((value >> BigInt(112 - 16 * i)) & 0xffffn));
  const [start, length] = longestZeros(groups);
  const hex = (part: readonly number[]): string => part.map((group) => group.toString(16)).join(':');
  if (length < 2) return hex(groups);
  return `${hex(groups.slice(0, start))}::${hex(groups.slice(start + length))}`;
}

type CidrReading = { readonly ok: true; readonly cidr: Cidr } | { readonly ok: false; readonly reason: string };

/** `a.b.c.d/n`, `x::/n`, or a single address, which is a block of one. Mapped blocks become IPv4. */
export function parseCidr(text: string): CidrReading {
  const [addressText = '', prefixText, ...rest] = text.split('/');
  const address = parseAddress(addressText);
  if (address === undefined || rest.length > 0) return { ok: false, reason: 'is not an address or block' };
  const bits = BITS[address.family];
  const prefix = prefixText === undefined ? bits : readPrefix(prefixText, bits);
  if (prefix === undefined) return { ok: false, reason: `needs a prefix of 0 to ${bits}` };
  const base = (address.value >> BigInt(bits - prefix)) << BigInt(bits - prefix);
  if (base !== address.value) {
    const meant = formatCidr({ family: address.family, base, prefix });
    return { ok: false, reason: `has bits beyond its prefix; the block is ${meant}` };
  }
  if (address.family === 6 && prefix >= 96 && base >> 32n === 0xffffn) {
    return { ok: true, cidr: { family: 4, base: low32(base), prefix: prefix - 96 } };
  }
  return { ok: true, cidr: { family: address.family, base, prefix } };
}

/** For constants. @throws TypeError */
export function cidr(text: string): Cidr {
  const reading = parseCidr(text);
  if (!reading.ok) throw new TypeError(`${text} ${reading.reason}`);
  return reading.cidr;
}

export function formatCidr({ family, base, prefix }: Cidr): string {
  return `${formatAddress({ family, value: base })}/${prefix}`;
}

export function cidrContains(block: Cidr, address: IpAddress): boolean {
  const range = rangeOf(block);
  const { family, value } = address;
  return family === range.family && value >= range.first && value <= range.last;
}

export function cidrCovers(outer: Cidr, inner: Cidr): boolean {
  const start = { family: inner.family, value: inner.base };
  return inner.prefix >= outer.prefix && cidrContains(outer, start);
}

export function cidrsOverlap(a: Cidr, b: Cidr): boolean {
  return cidrCovers(a, b) || cidrCovers(b, a);
}

export function rangeOf({ family, base, prefix }: Cidr): AddressRange {
  return { family, first: base, last: base + (1n << BigInt(BITS[family] - prefix)) - 1n };
}

/** Returns the same addresses in as few ranges as possible, in order. */
export function mergeRanges(ranges: readonly AddressRange[]): AddressRange[] {
  const order = [...ranges].sort((a, b) => {
    if (a.family !== b.family) return a.family - b.family;
    return a.first < b.first ? -1 : Number(a.first > b.first);
  });
  const out: AddressRange[] = [];
  for (const range of order) {
    const before = out.at(-1);
    if (before?.family === range.family && range.first <= before.last + 1n) {
      if (range.last > before.last) out[out.length - 1] = { ...before, last: range.last };
    } else out.push(range);
  }
  return out;
}

/** Returns the addresses of `from` that are in none of `taken`, merged. */
export function subtractRanges(from: readonly AddressRange[], taken: readonly AddressRange[]): AddressRange[] {
  let left = mergeRanges(from);
  for (const hole of mergeRanges(taken)) {
    left = left.flatMap((range) => {
      const apart = hole.family !== range.family || hole.last < range.first;
      if (apart || hole.first > range.last) return [range];
      const out: AddressRange[] = [];
      if (hole.first > range.first) out.push({ ...range, last: hole.first - 1n });
      if (hole.last < range.last) out.push({ ...range, first: hole.last + 1n });
      return out;
    });
  }
  return left;
}

/** Returns the fewest blocks that make up a range, in order. */
export function cidrsOf({ family, first, last }: AddressRange): Cidr[] {
  const bits = BITS[family];
  const out: Cidr[] = [];
  let base = first;
  while (base <= last) {
    let size = 0;
    while (size < bits && ((base >> BigInt(size)) & 1n) === 0n && base + (1n << BigInt(size + 1)) - 1n <= last) {
      size += 1;
    }
    out.push({ family, base, prefix: bits - size });
    base += 1n << BigInt(size);
  }
  return out;
}

function low32(value: bigint): bigint {
  return value & 0xffff_ffffn;
}

function readPrefix(text: string, bits: number): number | undefined {
  if (!/^(?:0|[1-9]\d{0,2})$/.test(text)) return undefined;
  return Number(text) <= bits ? Number(text) : undefined;
}

function parseDottedQuad(text: string): bigint | undefined {
  const parts = text.split('.');
  if (parts.length !== 4) return undefined;
  if (!parts.every((part) => /^(?:0|[1-9]\d{0,2})$/.test(part) && Number(part) < 256)) {
    return undefined;
  }
  return parts.reduce((sum, part) => (sum << 8n) | BigInt(part), 0n);
}

/** As inet_aton(3) and the IPv4 parser of the URL standard: the last of one to four parts fills the remaining bytes. */
function parseLooseIpv4(text: string): bigint | undefined {
  const parts = text.split('.');
  if (parts.length > 4) return undefined;
  const numbers = parts.map(parseLooseNumber);
  const last = numbers.pop();
  if (last === undefined) return undefined;
  let value = 0n;
  for (const number of numbers) {
    if (number === undefined || number > 255n) return undefined;
    value = (value << 8n) | number;
  }
  const lastBits = BigInt(8 * (4 - numbers.length));
  return last < 1n << lastBits ? (value << lastBits) | last : undefined;
}

function parseLooseNumber(text: string): bigint | undefined {
  if (/^0x[0-9a-f]*$/i.test(text)) return text.length === 2 ? 0n : BigInt(text);
  if (/^0[0-7]+$/.test(text)) return BigInt(`0o${text}`);
  return /^(?:0|[1-9]\d*)$/.test(text) ? BigInt(text) : undefined;
}

function parseIpv6(text: string): bigint | undefined {
  const halves = text.split('::');
  if (halves.length > 2) return undefined;
  const left = parseGroups(halves[0] ?? '', halves.length === 1);
  const right = halves.length === 2 ? parseGroups(halves[1] ?? '', true) : [];
  if (left === undefined || right === undefined) return undefined;
  const missing = 8 - left.length - right.length;
  // "::" stands for at least one group (RFC 4291 section 2.2).
  if (halves.length === 2 ? missing < 1 : missing !== 0) return undefined;
  const groups = [...left, ...Array.from({ length: missing }, () => 0n), ...right];
  return groups.reduce((sum, group) => (sum << 16n) | group, 0n);
}

/** @param atEnd true if the last group may be a dotted quad, which counts as two groups */
function parseGroups(text: string, atEnd: boolean): bigint[] | undefined {
  if (text === '') return [];
  const parts = text.split(':');
  const groups: bigint[] = [];
  for (const [i, part] of parts.entries()) {
    if (/^[0-9a-f]{1,4}$/i.test(part)) {
      groups.push(BigInt(`0x${part}`));
      continue;
    }
    const quad = atEnd && i === parts.length - 1 ? parseDottedQuad(part) : undefined;
    if (quad === undefined) return undefined;
    groups.push(quad >> 16n, quad & 0xffffn);
  }
  return groups;
}

function longestZeros(groups: readonly number[]): readonly [number, number] {
  let best: readonly [number, number] = [0, 0];
  let start = 0;
  for (const [i, group] of groups.entries()) {
    if (group !== 0) start = i + 1;
    else if (i + 1 - start > best[1]) best = [start, i + 1 - start];
  }
  return best;
}
