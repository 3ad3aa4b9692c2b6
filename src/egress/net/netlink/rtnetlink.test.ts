/**
 * Compares with bytes of iproute2 6.1 and a Linux 6.18 kernel, captured with strace; only sequence and port are ours.
 */
import { describe, expect, it } from 'vitest';
import { decodeIp, decodeMac, encodeIp, encodeMac } from './address.ts';
import { encodeMessage, FLAG, parseMessages } from './message.ts';
import type { Request } from './request.ts';
import { dumpAddresses, newAddress, parseAddress } from './rtnetlink-address.ts';
import { changeLink, deleteLink, dumpLinks, getLink, isLinkName, newLink, parseLink } from './rtnetlink-link.ts';
import { setNeighbor } from './rtnetlink-neighbor.ts';
import { lookUpRoute, newRoute, parseRoute } from './rtnetlink-route.ts';

/** Hexadecimal, with zeros for the header's sequence and port. */
function hex(request: Request): string {
  const flags = request.flags | FLAG.request;
  const bytes = encodeMessage({ ...request, flags, sequence: 0, portId: 0 });
  return Buffer.from(bytes).toString('hex');
}

const sent = (text: string): string => `${text.slice(0, 16)}${'0'.repeat(16)}${text.slice(32)}`;

function body(text: string): Uint8Array {
  const [message] = parseMessages(new Uint8Array(Buffer.from(text, 'hex')));
  return message?.body ?? new Uint8Array();
}

const guest = { linkIndex: 2, address: '10.201.0.1', prefixLength: 30 };

describe('rtnetlink requests', () => {
  // iproute2 changes links by RTM_NEWLINK without NLM_F_CREATE, which does the same as RTM_SETLINK (19).
  const setLink = (text: string): string => sent(text).replace(/^(.{8})1000/, '$11300');

  it.each([
    ['up', { up: true }, '2000000010000500ae70076b0000000000000000020000000100000001000000'],
    ['mtu', { mtu: 1400 }, '2800000010000500ae70076b00000000000000000200000000000000000000000800040078050000'],
    [
      'MAC',
      { mac: 'AA:fc:00:00:00:01' },
      '2c00000010000500af70076b00000000000000000200000000000000000000000a000100aafc000000010000',
    ],
    [
      'alias',
      { alias: 'neurovisor:x' },
      '3000000010000500ae70076b0000000000000000020000000000000000000000100014006e6575726f7669736f723a78',
    ],
    ['group', { group: 7 }, '2800000010000500ae70076b000000000000000002000000000000000000000008001b0007000000'],
  ])('changeLink: writes %s like iproute2', (_name, change, expected) => {
    expect(hex(changeLink(2, change))).toBe(setLink(expected));
  });

  it('changeLink: writes down as the mask without the flag', () => {
    expect(hex(changeLink(2, { up: false })).slice(48)).toBe('0000000001000000');
  });

  it('newLink, deleteLink: write the bytes of iproute2, plus the flag of nested attributes', () => {
    const create =
      '3c00000010000506ae70076b0000000000000000000000000000000000000000090003006e762d6800000000100012000a0001006272696467650000';
    expect(hex(newLink('nv-h', 'bridge'))).toBe(sent(create).replace('10001200', '10001280'));
    const remove = '2000000011000500ae70076b0000000000000000030000000000000000000000';
    expect(hex(deleteLink(3))).toBe(sent(remove));
  });

  it('getLink, dumpLinks: write the name after the mask of iproute2, and request no statistics', () => {
    expect(hex(getLink('nv-g'))).toBe(
      '34000000120001000000000000000000000000000000000000000000000000000900' + '03006e762d670000000008001d0008000000',
    );
    expect(hex(getLink(7)).slice(40, 48)).toBe('07000000');
    expect(hex(dumpLinks())).toBe(
      '28000000120001030000000000000000000000000000000000000000000000000800' + '1d0008000000',
    );
  });

  it('newAddress, dumpAddresses: write the bytes of iproute2', () => {
    expect(hex(newAddress(guest))).toBe(
      sent('2800000014000506ae70076b00000000021e000002000000080002000ac90001080001000ac90001'),
    );
    expect(hex(newAddress({ linkIndex: 2, address: 'fd00::1', prefixLength: 64 }))).toBe(
      sent(
        '4000000014000506ca70076b000000000a4000000200000014000200fd00000000000000000000000000000114000100fd000000000000000000000000000001',
      ),
    );
    expect(hex(dumpAddresses(2))).toBe(sent('1800000016000103af70076b000000000000000002000000'));
  });

  it('newRoute: writes the bytes of iproute2', () => {
    const route = { destination: '10.9.0.0/16', linkIndex: 2, gateway: '10.201.0.2' };
    expect(hex(newRoute({ ...route, source: '10.201.0.1' }))).toBe(
      sent(
        '3c00000018000506ca70076b0000000002100000fe04000100000000080001000a090000080005000ac90002080007000ac900010800040002000000',
      ),
    );
    expect(hex(newRoute({ destination: '10.8.0.0/16', linkIndex: 2 }))).toBe(
      sent('2c00000018000506ca70076b0000000002100000fe04fd0100000000080001000a0800000800040002000000'),
    );
  });

  it('newRoute: writes a table above 255 as an attribute, and a default route without destination', () => {
    const bytes = hex(newRoute({ destination: '0.0.0.0/0', linkIndex: 2, table: 1000, priority: 5 }));
    expect(bytes.slice(32)).toBe(
      '020000000004fd0100000000' + '0800040002000000' + '0800060005000000' + '08000f00e8030000',
    );
  });

  it('lookUpRoute: requests the route of the whole address', () => {
    expect(hex(lookUpRoute('10.9.0.1')).slice(32)).toBe('022000000000000000000000' + '080001000a090001');
  });

  it('setNeighbor: writes the bytes of iproute2', () => {
    expect(hex(setNeighbor(2, '10.201.0.2', 'aa:fc:00:00:00:02'))).toBe(
      sent('300000001c000505af70076b00000000020000000200000080000000080001000ac900020a000200aafc000000020000'),
    );
  });

  it.each([
    ['a name above 15 bytes', () => getLink('nv-0123456789abc')],
    ['a template for a name', () => newLink('nv-%d', 'dummy')],
    ['a path for a name', () => getLink('../x')],
    ['an alias above 255 bytes', () => changeLink(1, { alias: 'x'.repeat(256) })],
    ['a short MAC', () => changeLink(1, { mac: '00:11:22:33:44' })],
    ['a MAC of a group', () => changeLink(1, { mac: '01:00:5e:00:00:01' })],
    ['a zero MAC', () => setNeighbor(1, '10.0.0.1', '00:00:00:00:00:00')],
    ['another notation of an address', () => newAddress({ ...guest, address: '0x0a000001' })],
    ['an octal address', () => newAddress({ ...guest, address: '10.201.00.1' })],
    ['a prefix above 32', () => newAddress({ ...guest, prefixLength: 33 })],
    ['half a prefix', () => newAddress({ ...guest, prefixLength: 0.5 })],
    ['a destination without length', () => newRoute({ destination: '10.0.0.0', linkIndex: 1 })],
    ['a destination with two', () => newRoute({ destination: '10.0.0.0/8/8', linkIndex: 1 })],
    ['a gateway of another family', () => newRoute({ destination: '10.0.0.0/8', gateway: 'fd00::1', linkIndex: 1 })],
  ])('refuses %s', (_name, make) => {
    expect(make).toThrow(expect.objectContaining({ code: 'invalid' }));
  });
});

describe('rtnetlink answers', () => {
  it('parseAddress: reads the bytes of the kernel', () => {
    expect(
      parseAddress(
        body(
          '5000000014002200cb70076bb71a0000021e800002000000080001000ac90001080002000ac90001090003006e762d6700000000080008008000000014000600ffffffffffffffffeb7d0100eb7d0100',
        ),
      ),
    ).toEqual(guest);
  });

  it('parseRoute: reads connected, gateway and looked-up routes of the kernel', () => {
    const table = { linkIndex: 2, table: 254, type: 1, priority: 0 };
    expect(
      parseRoute(
        body(
          '3c00000018002200ca70076bc01a0000021e0000fe02fd011000000008000f00fe000000080001000ac90000080007000ac900010800040002000000',
        ),
      ),
    ).toEqual({ ...table, destination: '10.201.0.0/30', source: '10.201.0.1', gateway: undefined });
    const gateway = { ...table, gateway: '10.201.0.2', source: '10.201.0.1' };
    expect(
      parseRoute(
        body(
          '4400000018002200ca70076bc01a000002100000fe0400011000000008000f00fe000000080001000a090000080007000ac90001080005000ac900020800040002000000',
        ),
      ),
    ).toEqual({ ...gateway, destination: '10.9.0.0/16' });
    expect(
      parseRoute(
        body(
          '7000000018000000cb70076bd41a000002200000fe0000010002000008000f00fe000000080001000a0900010800040002000000080007000ac90001080005000ac90002080019000000000024000c000200000000000000000000000000000000000000000000000000000000000000',
        ),
      ),
    ).toEqual({ ...gateway, destination: '10.9.0.1/32' });
  });

  it('parseLink: reads name, mtu, alias, kind and MAC, and skips unknown attributes', () => {
    // From `ip link show` for a TAP: header, name, queue length, mtu, alias, MAC, kind.
    const parts = [
      '000001000200000002100000' + '00000000',
      '090003006e762d6700000000',
      '08000d00e8030000',
      '08000400dc050000',
      '110014006e6575726f7669736f723a7800000000',
      '0a0001004a0137df14db0000',
      '380012000800010074756e002c00020005000300020000000500040000000000050005000000000005000600010000000500070000000000',
      '04003e80',
    ];
    expect(parseLink(new Uint8Array(Buffer.from(parts.join(''), 'hex')))).toEqual({
      index: 2,
      name: 'nv-g',
      up: false,
      carrier: false,
      loopback: false,
      mtu: 1500,
      mac: '4a:01:37:df:14:db',
      alias: 'neurovisor:x',
      kind: 'tun',
    });
  });

  it.each([
    ['link', parseLink, 15],
    ['address', parseAddress, 7],
    ['route', parseRoute, 11],
  ])('a truncated %s is malformed', (_name, parse, bytes) => {
    expect(() => parse(new Uint8Array(bytes))).toThrow(expect.objectContaining({ code: 'malformed' }));
  });
});

describe('netlink addresses', () => {
  it.each([
    ['::', '00000000000000000000000000000000'],
    ['::1', '00000000000000000000000000000001'],
    ['fd00:ec2::254', 'fd000ec2000000000000000000000254'],
    // RFC 5952 sections 4.2.2 and 4.2.3: a single group is not shortened, and of equal runs the first is.
    ['2001:db8:0:1:1:1:1:1', '20010db8000000010001000100010001'],
    ['2001:db8::1:0:0:1', '20010db8000000000001000000000001'],
    ['1::', '00010000000000000000000000000000'],
    ['169.254.169.254', 'a9fea9fe'],
  ])('IP %s', (text, bytes) => {
    expect(Buffer.from(encodeIp(text)).toString('hex')).toBe(bytes);
    expect(decodeIp(new Uint8Array(Buffer.from(bytes, 'hex')))).toBe(text);
  });

  it.each(['', '1', '1.2.3', '1.2.3.4.5', '1.2.3.256', '1.2.3.-4', '1.2.3.4 ', ':::', '1::2::3', ':1:2:3:4:5:6:7'])(
    'IP "%s" is invalid',
    (text) => {
      expect(() => encodeIp(text)).toThrow(expect.objectContaining({ code: 'invalid' }));
    },
  );

  it.each(['1:2:3:4:5:6:7:8:9', '1:2:3:4:5:6:7', '1:2:3:4::5:6:7:8', 'fg00::', '12345::', '::1%lo'])(
    'IPv6 "%s" is invalid',
    (text) => {
      expect(() => encodeIp(text)).toThrow(expect.objectContaining({ code: 'invalid' }));
    },
  );

  it('MAC: reads any case and writes lower case', () => {
    expect(decodeMac(encodeMac('AA:FC:00:0a:0B:ff'))).toBe('aa:fc:00:0a:0b:ff');
  });

  it('isLinkName: accepts names that the kernel accepts and that need no quotes', () => {
    expect(['nv-abcdefgh', 'eth0', 'br_0.100', 'x'.repeat(15)].every(isLinkName)).toBe(true);
    const bad = ['', '.', '..', 'a b', 'a/b', 'a:b', 'nv-%d', '-x', 'x'.repeat(16), 'é', 'a\n'];
    expect(bad.filter(isLinkName)).toEqual([]);
  });
});
