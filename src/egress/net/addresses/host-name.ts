/** Names and literal addresses as guests write them in SNI, `Host` and DNS, in one canonical form. Pure. */
import { formatAddress, parseAddress, unmapped } from './addresses.ts';

/** Length of a whole name as text, RFC 1035 section 2.3.4 (255 bytes on the wire). */
export const NAME_CHARACTERS_MAX = 253;
export const LABEL_CHARACTERS_MAX = 63;

export type Host =
  | { readonly kind: 'name'; readonly name: string }
  /** Dotted quad, or IPv6 as in RFC 5952, without brackets. */
  | { readonly kind: 'address'; readonly address: string };

/**
 * Accepts letters, digits, hyphen and underscore in labels of 1–63, in lower case. IDNA is not interpreted: `xn--…` is
 * a name like any other, and non-ASCII text is not a name.
 * @param text without a trailing dot
 */
export function isCanonicalName(text: string): boolean {
  return text.length <= NAME_CHARACTERS_MAX && /^[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*$/.test(text);
}

/**
 * A host name in canonical form. Undefined for other text, and for anything readable as an address: `1.2.3.4`,
 * `2852039166`, `0xa9fea9fe`, `0251.0376.0251.0376` and other forms of inet_aton(3).
 */
export function parseHostName(text: string): string | undefined {
  const name = text.toLowerCase();
  return isCanonicalName(name) && !endsInNumber(name) ? name : undefined;
}

/**
 * A name, or an address in canonical form. Undefined for any other spelling of an address, which the gateway and a
 * server could read differently.
 */
export function parseHost(text: string): Host | undefined {
  const inner = /^\[([0-9A-Fa-f:.]{2,45})\]$/.exec(text)?.[1];
  if (inner !== undefined) {
    const address = parseAddress(inner);
    return address?.family === 6 ? { kind: 'address', address: formatAddress(address) } : undefined;
  }
  if (parseAddress(text)?.family === 4) return { kind: 'address', address: text };
  const name = parseHostName(text);
  return name === undefined ? undefined : { kind: 'name', name };
}

/** The form for comparing addresses: IPv4-mapped IPv6, as sockets report it, becomes IPv4. */
export function plainAddress(text: string): string {
  const address = parseAddress(text);
  return address === undefined ? text : formatAddress(unmapped(address));
}

/** The "ends in a number" rule of the URL standard (section 3.5): such a host is an address or an error. */
function endsInNumber(name: string): boolean {
  const last = name.slice(name.lastIndexOf('.') + 1);
  return /^(?:\d+|0x[0-9a-f]*)$/.test(last);
}
