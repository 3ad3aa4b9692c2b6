import { describe, expect, it } from 'vitest';
import { defaultDomain, listenChoice, urlOf } from './listen-flags.ts';

const TLS = { tlsCert: 'c.pem', tlsKey: 'k.pem' };

describe('listenChoice', () => {
  it('is loopback, unless another address is given', () => {
    expect(listenChoice({})).toBeNull();
    expect(listenChoice({ port: 0 })).toEqual({
      port: 0,
      host: '127.0.0.1',
      tls: null,
      domain: null,
      names: [],
      warning: null,
    });
  });

  it('takes TLS, and names of this machine from the domain', () => {
    const choice = listenChoice({ port: 443, host: '0.0.0.0', ...TLS, domain: 'Box.Example:7443' });
    expect(choice).toMatchObject({
      tls: { certPath: 'c.pem', keyPath: 'k.pem' },
      domain: 'box.example:7443',
      names: ['box.example', 'api.box.example'],
      warning: null,
    });
  });

  it('warns of an open port without TLS, which needs a word of the owner', () => {
    expect(() => listenChoice({ port: 1, host: '0.0.0.0' })).toThrow('without TLS');
    const choice = listenChoice({ port: 1, host: '0.0.0.0', plainHttp: true });
    expect(choice?.warning).toContain('without TLS');
    expect(listenChoice({ port: 1, host: '::1' })?.warning).toBeNull();
  });

  it.each([
    ['a name as address', { port: 1, host: 'localhost' }],
    ['half of a certificate', { port: 1, tlsCert: 'c.pem' }],
    ['a domain without a port to listen at', { domain: 'a.b' }],
    ['a domain that is none', { port: 1, domain: 'a b' }],
    ['a domain with a scheme', { port: 1, domain: 'https://a.b' }],
  ])('refuses %s', (_what, flags) => expect(() => listenChoice(flags)).toThrow());
});

it('URLs are for a client on this machine', () => {
  const tls = { certPath: '', keyPath: '' };
  expect(urlOf({ host: '::', tls, domain: 'a.b' }, 7443)).toBe('https://api.a.b:7443');
  expect(urlOf({ host: '::', tls, domain: 'a.b:80' }, 7443)).toBe('https://api.a.b:80');
  expect(urlOf({ host: '::', tls, domain: 'a.b' }, 443)).toBe('https://api.a.b');
  expect(urlOf({ host: '0.0.0.0', tls: null, domain: 'a.b' }, 1)).toBe('http://127.0.0.1:1');
  expect(urlOf({ host: '::', tls, domain: null }, 1)).toBe('https://[::1]:1');
  expect(defaultDomain({ host: '127.0.0.1' }, 7)).toBe('localhost:7');
  expect(defaultDomain({ host: '192.0.2.1' }, 7)).toBe('192.0.2.1:7');
});
