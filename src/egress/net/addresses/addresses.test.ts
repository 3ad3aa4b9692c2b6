import { describe, expect, it } from 'vitest';
import { cidr, cidrContains, facesOf, formatAddress, parseAddress, parseCidr, readAddress } from './addresses.ts';

const METADATA = '169.254.169.254';
const read = (text: string): string | undefined => {
  const address = readAddress(text);
  return address && formatAddress(address);
};
const faces = (text: string): string[] => {
  const address = parseAddress(text);
  return address === undefined ? [] : facesOf(address).map(formatAddress);
};

describe('readAddress', () => {
  it.each([
    '169.254.169.254',
    '2852039166',
    '0xa9fea9fe',
    '0XA9FEA9FE',
    '025177524776',
    '0251.0376.0251.0376',
    '0xa9.0xfe.0xa9.0xfe',
    '169.254.43518',
    '169.16689662',
    '169.0xfe.0251.254',
    '::ffff:169.254.169.254',
    '::ffff:a9fe:a9fe',
    '[::ffff:a9fe:a9fe]',
    '[0:0:0:0:0:FFFF:A9FE:A9FE]',
    '１６９.254。169．254',
  ])('reads %s as the metadata address', (text) => {
    expect(read(text)).toBe(METADATA);
  });
  it.each([
    '169.254.169.254.',
    '2852039166.',
    '169.254.169.254.example.com',
    '0x100000000',
    '4294967296',
    '1.2.3.256',
    '256.1.1.1',
    '1.2.3.4.5',
    '1.2.3.08',
    '1..2',
    '',
    '.',
    'a',
    '-1',
    '1e3',
    ' 1.2.3.4',
    '9'.repeat(100),
  ])('refuses %j', (text) => {
    expect(read(text)).toBeUndefined();
  });
  it('reads an IPv6 address with its zone', () => {
    expect(read('[fe80::a9fe:a9fe%25eth0]')).toBe('fe80::a9fe:a9fe');
  });
});

describe('parseAddress', () => {
  it.each([
    ['::', '::'],
    ['::1', '::1'],
    ['1::', '1::'],
    ['2001:DB8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['::1.2.3.4', '::102:304'],
    ['64:ff9b::1.2.3.4', '64:ff9b::102:304'],
  ])('reads %s as %s', (text, canonical) => {
    expect(faces(text)[0]).toBe(canonical);
  });
  it.each([
    ':',
    ':::',
    '1::2::3',
    '1:2:3:4:5:6:7',
    '1:2:3:4:5:6:7:8:9',
    '1:2:3:4:5:6:7::8',
    '1.2.3.4::',
    '::1.2.3.4:5',
    '12345::',
    '::g',
    '0x1.2.3.4',
    '01.2.3.4',
    'fe80::1%eth0',
  ])('refuses %j', (text) => {
    expect(parseAddress(text)).toBeUndefined();
  });
});

describe('facesOf', () => {
  it.each([
    '::ffff:169.254.169.254',
    '::169.254.169.254',
    '::ffff:0:169.254.169.254',
    '64:ff9b::a9fe:a9fe',
    '64:ff9b:1:a9fe:a9:fe00::',
    '64:ff9b:1:a9:fe:a9fe::',
    '64:ff9b:1:0:a9:fea9:fe00:0',
    '64:ff9b:1::a9fe:a9fe',
    '2002:a9fe:a9fe::1',
    '2001:0:a9fe:a9fe::1',
    '2001:0:102:304:0:0:5601:5601',
    '2001:db8::5efe:a9fe:a9fe',
    '2001:db8::200:5efe:a9fe:a9fe',
  ])('%s includes the metadata address', (text) => {
    expect(faces(text)).toContain(METADATA);
  });
  it('an ordinary address has only itself', () => {
    expect(faces('2606:4700::1111')).toEqual(['2606:4700::1111']);
    expect(faces('::1')).toEqual(['::1']);
  });
});

describe('parseCidr', () => {
  it('reads blocks and single addresses', () => {
    expect(parseCidr('10.0.0.0/8')).toEqual({ ok: true, cidr: cidr('10.0.0.0/8') });
    expect(cidr('10.1.2.3').prefix).toBe(32);
    expect(cidr('::ffff:10.0.0.0/104')).toEqual(cidr('10.0.0.0/8'));
    const address = parseAddress('10.255.0.1');
    expect(address && cidrContains(cidr('10.0.0.0/8'), address)).toBe(true);
  });
  it('names the block that was meant', () => {
    expect(parseCidr('10.1.2.3/8')).toEqual({
      ok: false,
      reason: 'has bits beyond its prefix; the block is 10.0.0.0/8',
    });
  });
  it.each(['', '/', '10.0.0.0/33', '10.0.0.0/08', '10.0.0.0/', '10.0.0.0/8/8', 'a/8', '::/129'])(
    'refuses %j',
    (text) => {
      expect(parseCidr(text).ok).toBe(false);
    },
  );
});
