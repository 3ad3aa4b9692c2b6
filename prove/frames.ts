/** Frames that a guest can send by bypassing its kernel. Pure. */
import { parseAddress } from '../src/egress/net/addresses/addresses.ts';

/** struct virtio_net_hdr, all zero: no offloads. */
const VIRTIO_NET_HEADER_BYTES = 10;
const ETHERTYPE = { ipv4: 0x0800, ipv6: 0x86dd } as const;
const [ICMP, UDP] = [1, 17];
const ECHO_IDENTIFIER = 77;
const HOPS = 64;

export interface UdpFrame {
  readonly fromMac: string;
  readonly toMac: string;
  /** Same address family as `to`. */
  readonly from: string;
  readonly to: string;
  readonly port: number;
  readonly text: string;
}

/** A UDP datagram in an Ethernet frame behind its virtio-net header. */
export function udpFrame({ fromMac, toMac, from, to, port, text }: UdpFrame): Buffer {
  const source = addressBytes(from);
  const destination = addressBytes(to);
  const udp = Buffer.alloc(8 + Buffer.byteLength(text));
  udp.writeUInt16BE(40_000, 0);
  udp.writeUInt16BE(port, 2);
  udp.writeUInt16BE(udp.length, 4);
  udp.write(text, 8);
  const pseudo = Buffer.alloc(4);
  pseudo.writeUInt8(UDP, 1);
  pseudo.writeUInt16BE(udp.length, 2);
  udp.writeUInt16BE(checksum(Buffer.concat([source, destination, pseudo, udp])) || 0xffff, 6);
  return frame({ fromMac, toMac, source, destination }, UDP, udp);
}

interface EchoFrame {
  readonly fromMac: string;
  readonly toMac: string;
  readonly from: string;
  readonly to: string;
  readonly kind: 'request' | 'reply';
  readonly sequence: number;
}

/** ICMP echo or its reply (RFC 792). */
export function echoFrame({ fromMac, toMac, from, to, kind, sequence }: EchoFrame): Buffer {
  const icmp = Buffer.alloc(16);
  icmp.writeUInt8(kind === 'request' ? 8 : 0, 0);
  icmp.writeUInt16BE(ECHO_IDENTIFIER, 4);
  icmp.writeUInt16BE(sequence, 6);
  icmp.writeUInt16BE(checksum(icmp), 2);
  const [source, destination] = [addressBytes(from), addressBytes(to)];
  return frame({ fromMac, toMac, source, destination }, ICMP, icmp);
}

/** Whether this is an IPv4 echo or reply. @param bytes with their virtio-net header */
export function isEcho(bytes: Buffer): boolean {
  const at = VIRTIO_NET_HEADER_BYTES;
  if (bytes.length < at + 34) return false;
  return bytes.readUInt16BE(at + 12) === ETHERTYPE.ipv4 && bytes.readUInt8(at + 23) === ICMP;
}

interface Ends {
  readonly fromMac: string;
  readonly toMac: string;
  readonly source: Buffer;
  readonly destination: Buffer;
}

/** IPv4 or IPv6, depending on the addresses. */
function frame(ends: Ends, protocol: number, payload: Buffer): Buffer {
  const { fromMac, toMac, source, destination } = ends;
  const isV4 = source.length === 4;
  const ip = isV4
    ? ipv4Header(source, destination, protocol, payload.length)
    : ipv6Header(source, destination, protocol, payload.length);
  const type = Buffer.alloc(2);
  type.writeUInt16BE(isV4 ? ETHERTYPE.ipv4 : ETHERTYPE.ipv6);
  const header = Buffer.alloc(VIRTIO_NET_HEADER_BYTES);
  return Buffer.concat([header, macBytes(toMac), macBytes(fromMac), type, ip, payload]);
}

/** RFC 791, section 3.1. */
function ipv4Header(source: Buffer, destination: Buffer, protocol: number, payloadBytes: number) {
  const header = Buffer.alloc(20);
  header.writeUInt8(0x45, 0);
  header.writeUInt16BE(20 + payloadBytes, 2);
  header.writeUInt8(HOPS, 8);
  header.writeUInt8(protocol, 9);
  source.copy(header, 12);
  destination.copy(header, 16);
  header.writeUInt16BE(checksum(header), 10);
  return header;
}

/** RFC 8200, section 3. */
function ipv6Header(source: Buffer, destination: Buffer, protocol: number, payloadBytes: number) {
  const header = Buffer.alloc(40);
  header.writeUInt8(0x60, 0);
  header.writeUInt16BE(payloadBytes, 4);
  header.writeUInt8(protocol, 6);
  header.writeUInt8(HOPS, 7);
  source.copy(header, 8);
  destination.copy(header, 24);
  return header;
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

function macBytes(text: string): Buffer {
  return Buffer.from(text.replaceAll(':', ''), 'hex');
}

function addressBytes(text: string): Buffer {
  const address = parseAddress(text);
  if (address === undefined) throw new TypeError(`${text} is not an address`);
  const digits = address.value.toString(16).padStart(address.family === 4 ? 8 : 32, '0');
  return Buffer.from(digits, 'hex');
}
