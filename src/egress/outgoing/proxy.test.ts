import { describe, expect, it } from 'vitest';
import { proxyFor } from './proxy.ts';

const PROXY = 'http://proxy.example:3128/';
const through = (url: string, except = ''): boolean => {
  return proxyFor(new URL(url), { https: PROXY, except }) === PROXY;
};

describe('proxyFor', () => {
  it('uses no proxy for an index or a scheme without one', () => {
    expect(proxyFor(new URL('https://a.example/'), undefined)).toBe(undefined);
    expect(through('http://a.example/')).toBe(false);
    expect(through('https://a.example/')).toBe(true);
  });

  it.each(['https://localhost/', 'https://127.1.2.3:4/', 'https://[::1]/'])(
    'never uses a proxy for this host itself: %s',
    (url) => {
      expect(through(url)).toBe(false);
    },
  );

  it.each([
    ['*', 'https://a.example/'],
    ['b.example, a.example', 'https://a.example/'],
    ['A.Example', 'https://x.a.example/'],
    ['.a.example', 'https://x.a.example/'],
    ['*.a.example', 'https://x.a.example/'],
    ['a.example:8443', 'https://a.example:8443/'],
    ['a.example:443', 'https://a.example/'],
    ['10.0.0.7', 'https://10.0.0.7/'],
    ['10.0.0.0/8', 'https://10.1.2.3/'],
    ['2001:db8::/32', 'https://[2001:db8::1]/'],
    ['2001:db8::1', 'https://[2001:db8::1]/'],
    ['[2001:db8::1]:8443', 'https://[2001:db8::1]:8443/'],
  ])('NO_PROXY=%s: %s is reached directly', (except, url) => {
    expect(through(url, except)).toBe(false);
  });

  it.each([
    ['a.example', 'https://ba.example/'],
    ['a.example:8443', 'https://a.example/'],
    ['10.0.0.0/8', 'https://11.0.0.1/'],
    ['10.0.0.0/99', 'https://10.0.0.1/'],
    ['0.0.7', 'https://10.0.0.7/'],
    ['', 'https://a.example/'],
  ])('NO_PROXY=%s: %s is not reached directly', (except, url) => {
    expect(through(url, except)).toBe(true);
  });
});
