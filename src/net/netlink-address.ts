/**
 * Addresses as the kernel has them: 4 bytes of IPv4, 16 of IPv6, 6 of Ethernet, most significant first.
 * Their text is one only: strict dotted decimal, RFC 5952, lower-case pairs with colons. What users may
 * write in other ways is brought to that form elsewhere.
 */
import { LinkError } from './link-errors.ts';

/** Address families (bits/socket.h). */
export const FAMILY = { unspecified: 0, ipv4: 2, ipv6: 10 } as const;

const IPV4_BYTES = 4;
const IPV6_GROUPS = 8;
const MAC = /^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/;
const DECIMAL_BYTE = /^(?:0|[1-9]\d{0,2})$/;
const GROUP = /^[0-9a-f]{1,4}$/i;

/** @throws LinkError `invalid` */
export function encodeIp(text: string): Uint8Array {
  const bytes = text.includes(':') ? ipv6Bytes(text) : ipv4Bytes(text);
  if (bytes === undefined) throw new LinkError('invalid', `take "${text}" for an IP address`);
  return bytes;
}

/** @throws LinkError `malformed` for anything but 4 or 16 bytes. */
export function decodeIp(bytes: Uint8Array): string {
  if (bytes.length === IPV4_BYTES) return bytes.join('.');
  if (bytes.length !== 2 * IPV6_GROUPS)
    throw new LinkError('malformed', `read an IP address of ${bytes.length} bytes`);
  const groups = Array.from({ length: IPV6_GROUPS }, (_, index) =>
    (((bytes[2 * index] ?? 0) << 8) | (bytes[2 * index + 1] ?? 0)).toString(16),
  );
  const gap = longestZeros(groups);
  if (gap === undefined) return groups.join(':');
  const [before, after] = [groups.slice(0, gap.start), groups.slice(gap.start + gap.length)];
  return `${before.join(':')}::${after.join(':')}`;
}

export function familyOf(ip: Uint8Array): number {
  return ip.length === IPV4_BYTES ? FAMILY.ipv4 : FAMILY.ipv6;
}

/** Of one station: not zeros, not a group's. @throws LinkError `invalid` */
export function encodeMac(text: string): Uint8Array {
  const lower = text.toLowerCase();
  const isGroup = (Number.parseInt(lower.slice(0, 2), 16) & 1) === 1;
  if (!MAC.test(lower) || isGroup || lower === '00:00:00:00:00:00')
    throw new LinkError('invalid', `take "${text}" for a MAC address`);
  return Uint8Array.from(lower.split(':'), (pair) => Number.parseInt(pair, 16));
}

/** Of any length: a tunnel's is an IP address, and the loopback's is zeros. */
export function decodeMac(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}

function ipv4Bytes(text: string): Uint8Array | undefined {
  const parts = text.split('.');
  const isWhole = parts.length === IPV4_BYTES;
  if (!isWhole || !parts.every((part) => DECIMAL_BYTE.test(part) && Number(part) <= 255))
    return undefined;
  return Uint8Array.from(parts, Number);
}

/** RFC 4291 section 2.2, forms 1 and 2: the dotted tail of form 3 is never ours. */
function ipv6Bytes(text: string): Uint8Array | undefined {
  const halves = text.split('::');
  if (halves.length > 2) return undefined;
  const [head = [], tail = []] = halves.map((half) => (half === '' ? [] : half.split(':')));
  const given = [...head, ...tail];
  const missing = IPV6_GROUPS - given.length;
  const isLengthRight = halves.length === 2 ? missing >= 1 : missing === 0;
  if (!isLengthRight || !given.every((group) => GROUP.test(group))) return undefined;
  const groups = [...head, ...Array<string>(missing).fill('0'), ...tail];
  return Uint8Array.from(
    groups.flatMap((group) => {
      const value = Number.parseInt(group, 16);
      return [value >> 8, value & 0xff];
    }),
  );
}

/** RFC 5952 section 4.2: the first of the longest runs of at least two groups of zeros. */
function longestZeros(groups: readonly string[]): { start: number; length: number } | undefined {
  let best: { start: number; length: number } | undefined;
  let start = 0;
  for (const [index, group] of groups.entries()) {
    if (group !== '0') {
      start = index + 1;
      continue;
    }
    const length = index + 1 - start;
    if (length >= 2 && length > (best?.length ?? 0)) best = { start, length };
  }
  return best;
}
