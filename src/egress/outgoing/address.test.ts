import { describe, expect, it } from 'vitest';
import { allowedOf, decideAddress } from './address.ts';

const decision = (url: string, address: string, hosts: readonly string[] = [], own: readonly string[] = []) =>
  decideAddress(new URL(url), address, hosts, own);

describe('decideAddress', () => {
  it('allows public addresses', () => {
    expect(decision('https://hook.example/x', '93.184.216.34')).toMatchObject({ allowed: true });
    expect(decision('https://hook.example./x', '2606:2800:220:1::1').allowed).toBe(true);
  });

  it.each([
    '127.0.0.1',
    '::1',
    '::ffff:127.0.0.1',
    '10.0.0.1',
    '100.64.0.1',
    '172.16.0.1',
    '192.168.1.1',
    '0.0.0.0',
    'fd00::1',
    '64:ff9b::7f00:1',
  ])('refuses %s, unless the owner names the host', (address) => {
    const url = 'http://hook.example:8080/';
    expect(decision(url, address)).toMatchObject({ allowed: false, reason: 'private' });
    expect(decision(url, address, ['hook.example:80', 'example']).allowed).toBe(false);
    if (address.startsWith('64:')) return;
    expect(decision(url, address, ['hook.example']).allowed).toBe(true);
    expect(decision(url, address, ['x', 'HOOK.example:8080']).allowed).toBe(true);
  });

  it('refuses metadata services and link-local addresses, named or not', () => {
    for (const address of ['169.254.169.254', '169.254.1.1', 'fe80::1', '168.63.129.16']) {
      for (const hosts of [[], ['hook.example'], [address]]) {
        const expected = { allowed: false, reason: 'metadata' };
        expect(decision('http://hook.example/', address, hosts)).toMatchObject(expected);
      }
    }
    const name = decision('http://metadata.google.internal/', '93.184.216.34', []);
    expect(name).toMatchObject({ allowed: false, reason: 'metadata' });
  });

  it('refuses a public address of the host itself, unless named', () => {
    const own = ['127.0.0.1', '93.184.216.34'];
    expect(decision('http://hook.example/', '93.184.216.34', [], own).allowed).toBe(false);
    expect(decision('http://hook.example/', '93.184.216.34', ['hook.example'], own).allowed).toBe(true);
  });

  it('compares named addresses in canonical form', () => {
    expect(decision('http://0x7f.1:9/', '127.0.0.1', ['127.0.0.1:9']).allowed).toBe(true);
    expect(decision('http://[0::1]:9/', '::1', ['[::1]:9']).allowed).toBe(true);
    expect(decision('http://127.0.0.1:9/', '127.0.0.1', ['127.0.0.1:90']).allowed).toBe(false);
  });

  it('treats the default port as named', () => {
    expect(decision('https://hook.example/', '10.0.0.1', ['hook.example:443']).allowed).toBe(true);
    expect(decision('http://hook.example/', '10.0.0.1', ['hook.example:443']).allowed).toBe(false);
  });
});

describe('decideAddress, for a host that the owner did not name', () => {
  const isPublic = (address: string): boolean =>
    decideAddress(new URL('https://index.example/'), address, [], own).allowed;
  const own = ['127.0.0.1', '8.8.4.4', '2600:1901::5', 'fe80::1'];

  it.each([
    '8.8.4.4',
    '::ffff:8.8.4.4',
    '::ffff:808:404',
    '64:ff9b::808:404',
    '2002:808:404::1',
    '2600:1901::5',
    '2600:1901:0:0:0:0:0:5',
    '127.0.0.1',
    '::ffff:7f00:1',
    '169.254.169.254',
    'not an address',
  ])('refuses %s', (address) => {
    expect(isPublic(address)).toBe(false);
  });

  it.each(['8.8.8.8', '::ffff:8.8.8.8', '2600:1901::6'])('accepts %s', (address) => {
    expect(isPublic(address)).toBe(true);
  });
});

describe('allowedOf', () => {
  const judge = (address: string) => (address.startsWith('192') ? undefined : `${address} is private`);

  it('keeps the allowed addresses, and throws if there is none', () => {
    const found = [
      { address: '10.0.0.1', family: 4 },
      { address: '192.0.2.1', family: 4 },
    ];
    expect(allowedOf(found, judge)).toEqual([found[1]]);
    expect(() => allowedOf(found.slice(0, 1), judge)).toThrow('10.0.0.1 is private');
    expect(() => allowedOf([], judge)).toThrow('no address');
  });
});
