import { describe, expect, it } from 'vitest';
import { checkUrl, isFileHost } from './address.ts';
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
