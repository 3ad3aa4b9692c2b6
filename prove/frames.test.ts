import { describe, expect, it } from 'vitest';
import { echoFrame, isEcho, udpFrame } from './frames.ts';

describe('udpFrame', () => {
  const macs = { fromMac: 'aa:fc:00:00:00:02', toMac: 'aa:fd:00:00:00:01' };
  it('equals the kernel’s frame for the same datagram, over IPv4', () => {
    const frame = udpFrame({ ...macs, from: '10.0.0.2', to: '10.0.0.1', port: 9, text: 'hi' });
    // Checksums as computed by tshark: 66cd for the IP header, e5a7… for UDP.
    const ip = frame.subarray(24, 44);
    expect(frame.subarray(0, 24).toString('hex')).toBe('00000000000000000000aafd00000001aafc000000020800');
    expect(ip.toString('hex')).toBe('4500001e00000000401166cd0a0000020a000001');
    expect(onesComplement(ip)).toBe(0xffff);
    expect(onesComplement(pseudo(frame.subarray(36, 44), frame.subarray(44)))).toBe(0xffff);
  });
  it('equals the kernel’s frame over IPv6', () => {
    const frame = udpFrame({ ...macs, from: 'fd00::2', to: 'fd00:ec2::254', port: 80, text: 'x' });
    expect(frame.subarray(22, 24).toString('hex')).toBe('86dd');
    expect(frame.subarray(24, 32).toString('hex')).toBe('6000000000091140');
    expect(onesComplement(pseudo(frame.subarray(32, 64), frame.subarray(64)))).toBe(0xffff);
  });
});

describe('echoFrame', () => {
  it('equals a frame of ping, and is recognized as an echo', () => {
    const macs = { fromMac: 'aa:fc:00:00:00:02', toMac: 'aa:fd:00:00:00:01' };
    const ends = { ...macs, from: '10.0.0.2', to: '10.0.0.1' };
    const frame = echoFrame({ ...ends, kind: 'request', sequence: 5 });
    expect(frame.subarray(44, 52).toString('hex')).toBe('0800f7ad004d0005');
    expect(onesComplement(frame.subarray(24, 44))).toBe(0xffff);
    expect(onesComplement(frame.subarray(44))).toBe(0xffff);
    expect(isEcho(frame)).toBe(true);
    expect(isEcho(udpFrame({ ...ends, port: 9, text: 'hi' }))).toBe(false);
    expect(isEcho(frame.subarray(0, 40))).toBe(false);
  });
});

function pseudo(addresses: Buffer, udp: Buffer): Buffer {
  return Buffer.concat([addresses, Buffer.from([0, 17, 0, udp.length]), udp]);
}

/** Bytes with a correct checksum in them give all ones (RFC 1071). */
function onesComplement(bytes: Buffer): number {
  const padded = bytes.length % 2 === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(1)]);
  let sum = 0;
  for (let at = 0; at < padded.length; at += 2) sum += padded.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return sum;
}
