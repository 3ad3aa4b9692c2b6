/**
 * Converts addresses between the kernel's form in network byte order (4 bytes for IPv4, 16 for IPv6, 6 for Ethernet)
 * and canonical text: dotted decimal, RFC 5952, lower-case pairs with colons.
 */
import { formatAddress, parseAddress } from '../addresses/addresses.ts';
import { LinkError } from './errors.ts';

export const FAMILY = { unspecified: 0, ipv4: 2, ipv6: 10 } as const;

const IPV4_BYTES = 4;
const IPV6_BYTES = 16;
const MAC = /^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/;

/** @throws LinkError `invalid` */
export function encodeIp(text: string): Uint8Array {
  const address = parseAddress(text);
  if (address === undefined) throw new LinkError('invalid', `invalid IP address "${text}"`);
  const bytes = address.family === 4 ? IPV4_BYTES : IPV6_BYTES;
  return new Uint8Array(Buffer.from(address.value.toString(16).padStart(2 * bytes, '0'), 'hex'));
}

/** @throws LinkError `malformed` for anything but 4 or 16 bytes. */
export function decodeIp(bytes: Uint8Array): string {
  if (bytes.length !== IPV4_BYTES && bytes.length !== IPV6_BYTES)
    throw new LinkError('malformed', `read an IP address of ${bytes.length} bytes`);
  const value = BigInt(`0x${Buffer.from(bytes).toString('hex')}`);
  return formatAddress({ family: bytes.length === IPV4_BYTES ? 4 : 6, value });
}

export function familyOf(ip: Uint8Array): number {
  return ip.length === IPV4_BYTES ? FAMILY.ipv4 : FAMILY.ipv6;
}

/** Accepts only a non-zero unicast address. @throws LinkError `invalid` */
export function encodeMac(text: string): Uint8Array {
  const lower = text.toLowerCase();
  const isGroup = (Number.parseInt(lower.slice(0, 2), 16) & 1) === 1;
  if (!MAC.test(lower) || isGroup || lower === '00:00:00:00:00:00')
    throw new LinkError('invalid', `invalid MAC address "${text}"`);
  return Uint8Array.from(lower.split(':'), (pair) => Number.parseInt(pair, 16));
}

/** Accepts any length: a tunnel has an IP address here, and loopback zeros. */
export function decodeMac(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}
