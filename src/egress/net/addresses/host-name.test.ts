import { describe, expect, it } from 'vitest';
import { parseHost, parseHostName, plainAddress } from './host-name.ts';

/** 169.254.169.254 in the spellings that inet_aton(3) and URL parsers accept. */
const SPELLINGS = [
  '2852039166',
  '0xa9fea9fe',
  '0xA9FEA9FE',
  '025177524776',
  '0251.0376.0251.0376',
  '0xa9.0xfe.0xa9.0xfe',
  '169.16689662',
  '169.254.43518',
  '169.254.169.0376',
  '169.254.169.254.',
  '0169.254.169.254',
  '169.254.169.256',
  'a.0x',
  '１６９.254.169.254',
];

describe('parseHostName', () => {
  it('accepts names and converts them to lower case', () => {
    expect(parseHostName('API.Example.com')).toBe('api.example.com');
    expect(parseHostName('_acme.xn--bcher-kva.example')).toBe('_acme.xn--bcher-kva.example');
    expect(parseHostName('localhost')).toBe('localhost');
    expect(parseHostName('1.2.3.example')).toBe('1.2.3.example');
  });
  it.each([...SPELLINGS, '169.254.169.254', '', '.', 'a..b', 'a.', '.a', 'a b', 'a%2eb', 'é.example'])(
    'refuses %j',
    (text) => {
      expect(parseHostName(text)).toBeUndefined();
    },
  );
  it('refuses names and labels that are too long', () => {
    expect(parseHostName('a'.repeat(63))).toBeDefined();
    expect(parseHostName('a'.repeat(64))).toBeUndefined();
    const long = Array.from({ length: 4 }, () => 'a'.repeat(63)).join('.');
    expect(parseHostName(long.slice(0, 253))).toBeDefined();
    expect(parseHostName(long.slice(0, 254))).toBeUndefined();
  });
});

describe('parseHost', () => {
  it('accepts an address only in its canonical spelling', () => {
    expect(parseHost('169.254.169.254')).toEqual({ kind: 'address', address: '169.254.169.254' });
    expect(parseHost('[FD00:EC2:0::254]')).toEqual({ kind: 'address', address: 'fd00:ec2::254' });
    expect(parseHost('[::ffff:169.254.169.254]')).toEqual({ kind: 'address', address: '::ffff:a9fe:a9fe' });
    for (const text of [...SPELLINGS, 'fd00:ec2::254', '[fe80::1%25eth0]', '[]', '[1.2.3.4]'])
      expect(parseHost(text), text).toBeUndefined();
  });
});

describe('plainAddress', () => {
  it('converts an address from a socket to its plain form', () => {
    expect(plainAddress('::ffff:10.0.0.1')).toBe('10.0.0.1');
    expect(plainAddress('2001:DB8:0:0::1')).toBe('2001:db8::1');
    expect(plainAddress('10.0.0.1')).toBe('10.0.0.1');
  });
});
