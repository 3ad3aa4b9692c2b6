import { describe, expect, it } from 'vitest';
import { checkUrl, isFileHost, literalAddress, publicOnly } from './address.ts';
import type { Index } from './index-set.ts';

const index: Index = { baseUrl: 'https://pip.example/simple/', fileHosts: ['files.example:8443'] };
const plain: Index = { baseUrl: 'http://pip.internal:8080/simple/' };
const url = (text: string): URL => new URL(text);

describe('checkUrl', () => {
  it.each([
    ['https://pip.example/x', index],
    ['https://other.example/x', index],
    ['http://pip.internal:8080/x', plain],
    ['http://other.example/x', plain],
  ] as const)('permits %s', (text, of) => {
    expect(() => checkUrl(url(text), of)).not.toThrow();
  });

  it.each([
    ['http://pip.example/x', index],
    ['ftp://other.example/x', plain],
    ['file:///etc/passwd', plain],
    // Its origin is that of the inner URL.
    ['blob:https://pip.example/x', index],
    ['javascript:alert(1)', index],
    ['data:text/html,x', plain],
    ['https://me:secret@other.example/x', index],
    ['https://other.example:22/x', index],
    ['https://other.example:25/x', index],
  ] as const)('refuses %s', (text, of) => {
    expect(() => checkUrl(url(text), of)).toThrow(/^connect to/);
  });
});

describe('isFileHost', () => {
  it('matches host and port exactly, and only HTTPS', () => {
    expect(isFileHost(url('https://files.example:8443/x'), index)).toBe(true);
    for (const text of ['http://files.example:8443/x', 'https://files.example/x', 'https://a.files.example:8443/x']) {
      expect([text, isFileHost(url(text), index)]).toEqual([text, false]);
    }
  });
});

describe('addresses', () => {
  it.each([
    ['http://169.254.169.254/', '169.254.169.254'],
    ['http://[::1]/', '::1'],
    ['http://2852039166/', '169.254.169.254'],
    ['http://0x7f.1/', '127.0.0.1'],
    ['http://a.example/', undefined],
  ])('literalAddress: %s is %s', (text, address) => {
    expect(literalAddress(url(text))).toBe(address);
  });

  it('publicOnly: keeps the public ones, and throws if there is none', () => {
    const found = [{ address: '10.0.0.1' }, { address: '192.0.2.1' }];
    const isPublic = (address: string): boolean => address.startsWith('192');
    expect(publicOnly(url('https://a.example/'), found, isPublic)).toEqual([found[1]]);
    expect(() => publicOnly(url('https://a.example/'), [], isPublic)).toThrow('not public');
  });
});
