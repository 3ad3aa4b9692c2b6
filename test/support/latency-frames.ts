/** Frames of TCP and ICMP between a guest and its peers, as hex. */

export interface Ends {
  readonly from: string;
  readonly to: string;
}

export const GUEST = '10.9.0.2';
export const HOST = '10.9.0.1';
export const PEER = '10.9.1.2';
const MACS = Buffer.from('aafd00000001aafc00000009', 'hex');
const [ICMP, TCP, UDP] = [1, 6, 17];

export const FLAGS = { fin: 1, syn: 2, rst: 4, ack: 16 } as const;

/** An echo request or its reply. */
export function echo(ends: Ends, sequence: number, kind: 'request' | 'reply' = 'request'): string {
  const icmp = Buffer.alloc(16);
  icmp.writeUInt8(kind === 'request' ? 8 : 0, 0);
  icmp.writeUInt16BE(77, 4);
  icmp.writeUInt16BE(sequence, 6);
  icmp.writeUInt16BE(checksum(icmp), 2);
  return frame(ends, ICMP, icmp);
}

export interface Segment {
  readonly sequence: number;
  readonly acknowledge?: number;
  readonly flags?: number;
  readonly bytes?: number;
  readonly ports?: readonly [number, number];
}

export function tcp(ends: Ends, segment: Segment): string {
  const { sequence, acknowledge = 0, flags = 0, bytes = 0, ports = [40_000, 9999] } = segment;
  const tcp = Buffer.alloc(20 + bytes);
  tcp.writeUInt16BE(ports[0], 0);
  tcp.writeUInt16BE(ports[1], 2);
  tcp.writeUInt32BE(sequence >>> 0, 4);
  tcp.writeUInt32BE(acknowledge >>> 0, 8);
  tcp.writeUInt8(5 << 4, 12);
  tcp.writeUInt8(flags | (acknowledge === 0 ? 0 : FLAGS.ack), 13);
  tcp.writeUInt16BE(0xffff, 14);
  const pseudo = Buffer.concat([addressOf(ends.from), addressOf(ends.to), Buffer.of(0, TCP, 0, 0)]);
  pseudo.writeUInt16BE(tcp.length, 10);
  tcp.writeUInt16BE(checksum(Buffer.concat([pseudo, tcp])), 16);
  return frame(ends, TCP, tcp);
}

/** Without a checksum, which IPv4 allows. */
export function udp(ends: Ends, id: number): string {
  const datagram = Buffer.alloc(12);
  datagram.writeUInt16BE(40_000, 0);
  datagram.writeUInt16BE(9999, 2);
  datagram.writeUInt16BE(datagram.length, 4);
  return frame(ends, UDP, datagram, { id });
}

/** The second piece of a datagram. */
export function fragment(ends: Ends): string {
  return frame(ends, UDP, Buffer.alloc(24), { id: 9, offset: 100 });
}

/** Only its beginning. */
export function cut(hex: string, bytes: number): string {
  return hex.slice(0, 2 * bytes);
}

function frame(
  { from, to }: Ends,
  protocol: number,
  payload: Buffer,
  more: { readonly id?: number; readonly offset?: number } = {},
): string {
  const ip = Buffer.alloc(20);
  ip.writeUInt8(0x45, 0);
  ip.writeUInt16BE(20 + payload.length, 2);
  ip.writeUInt16BE(more.id ?? 0, 4);
  ip.writeUInt16BE(more.offset ?? 0, 6);
  ip.writeUInt8(64, 8);
  ip.writeUInt8(protocol, 9);
  addressOf(from).copy(ip, 12);
  addressOf(to).copy(ip, 16);
  ip.writeUInt16BE(checksum(ip), 10);
  return Buffer.concat([MACS, Buffer.of(0x08, 0x00), ip, payload]).toString('hex');
}

function addressOf(text: string): Buffer {
  return Buffer.from(text.split('.').map(Number));
}

/** RFC 1071. */
function checksum(bytes: Buffer): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) {
    sum += ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
    sum = (sum & 0xffff) + (sum >>> 16);
  }
  return ~sum & 0xffff;
}
