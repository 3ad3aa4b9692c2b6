/** Ethernet frames from a TAP, and their fate before the packet filter. */
import { type IpAddress, parseAddress } from '../../src/egress/net/addresses/addresses.ts';

export type Fate = 'pass' | 'metadata' | 'unreadable';

/** A frame to an address, with the header of its family and a few bytes behind it. */
export function frameTo(address: string | IpAddress): Uint8Array {
  const to = typeof address === 'string' ? parseAddress(address) : address;
  if (to === undefined) throw new TypeError(`${address} is not an address`);
  const isV4 = to.family === 4;
  const frame = Buffer.alloc(14 + (isV4 ? 20 : 40) + 8);
  frame.writeUInt16BE(isV4 ? 0x0800 : 0x86dd, 12);
  frame.writeUInt8(isV4 ? 0x45 : 0x60, 14);
  const digits = to.value.toString(16).padStart(isV4 ? 8 : 32, '0');
  frame.write(digits, isV4 ? 30 : 38, 'hex');
  return frame;
}

function ofType(type: number, bytes = 46): Uint8Array {
  const frame = Buffer.alloc(14 + bytes);
  frame.writeUInt16BE(type, 12);
  return frame;
}

const METADATA = [
  '169.254.169.254',
  '169.254.0.0',
  '169.254.255.255',
  '168.63.129.16',
  '100.100.100.200',
  '192.0.0.192',
  'fe80::a9fe:a9fe',
  'febf:ffff::1',
  'fd00:ec2::254',
  'fd20:ce::254',
  'fd00:100::100:200',
  'fd00:c1::a9fe:a9fe',
  'fd00:42::42',
  'fd00:a9fe:a9fe::1',
  '::ffff:169.254.169.254',
  '::169.254.169.254',
  '::ffff:0:168.63.129.16',
  '64:ff9b::168.63.129.16',
  '64:ff9b:1:a83f:81:1000::',
  '64:ff9b:1:a8:3f:8110::',
  '64:ff9b:1:0:a8:3f81:1000:0',
  '64:ff9b:1::168.63.129.16',
  '2002:a83f:8110::1',
  '2001:0:a83f:8110::1',
  '2001:0:1:2:3:4:57c0:7eef',
  'fd00:1::200:5efe:168.63.129.16',
];
const NEIGHBOURS = [
  '169.253.255.255',
  '169.255.0.0',
  '168.63.129.15',
  '168.63.129.17',
  '100.100.100.199',
  '100.100.100.201',
  '192.0.0.191',
  '192.0.0.193',
  '10.201.0.1',
  '255.255.255.255',
  'fe7f:ffff::1',
  'fec0::1',
  'fd00:ec1:ffff::',
  'fd00:ec3::',
  'fd20:ce::253',
  'fd00:42::43',
  'fd00:a9fe:a9fe::2',
  '::ffff:169.253.255.255',
  '64:ff9b::168.63.129.17',
  '2002:a83f:8111::1',
  'ff02::1',
  '::',
];

export const FRAMES: readonly (readonly [what: string, frame: Uint8Array, fate: Fate])[] = [
  ...METADATA.map((address) => [address, frameTo(address), 'metadata'] as const),
  ...NEIGHBOURS.map((address) => [address, frameTo(address), 'pass'] as const),
  ['ARP', ofType(0x0806), 'pass'],
  ['a frame of 802.3', ofType(46), 'pass'],
  ['a VLAN tag', ofType(0x8100), 'unreadable'],
  ['a VLAN tag of a provider', ofType(0x88a8), 'unreadable'],
  ['IPv4 that ends within its header', frameTo('1.1.1.1').subarray(0, 33), 'unreadable'],
  ['a bare header of IPv4', frameTo('1.1.1.1').subarray(0, 34), 'pass'],
  ['a bare header to metadata', frameTo('169.254.169.254').subarray(0, 34), 'metadata'],
  ['IPv6 that ends within its header', frameTo('ff02::1').subarray(0, 53), 'unreadable'],
  ['a bare header of IPv6', frameTo('ff02::1').subarray(0, 54), 'pass'],
  ['Ethernet and nothing else', ofType(0x0800, 0), 'unreadable'],
];
