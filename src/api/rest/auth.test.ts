import { describe, expect, it } from 'vitest';
import { DAEMON_KEY_CALLER } from '../tenants/callers.ts';
import { type Access, type Asking, callerOf } from './auth.ts';
import { ApiError } from './errors.ts';

const KEY = 'a-key-of-this-test';
const URL = '/v1/sandboxes';
const host = '127.0.0.1:7070';

const callers = { identify: (given: string) => (given === KEY ? DAEMON_KEY_CALLER : null) };
/** `null` if the request is served. */
function refusalOf(asking: Asking, access?: Access): string | null {
  const caller = callerOf(asking, callers, access);
  return caller instanceof ApiError ? caller.code : null;
}

describe('callerOf', () => {
  it.each([
    ['the unix socket, without a key', { isLocalUser: true, headers: { host: 'anything' } }],
    ['a bearer key', { headers: { host, authorization: `Bearer ${KEY}` } }],
    ['a bearer key in lower case', { headers: { host, authorization: `bearer ${KEY}` } }],
    ['X-API-Key', { headers: { host, 'x-api-key': KEY } }],
    ['localhost', { headers: { host: 'localhost', 'x-api-key': KEY } }],
    ['IPv6 loopback', { headers: { host: '[::1]:80', 'x-api-key': KEY } }],
    ['health, without a key', { url: '/v1/health', headers: { host } }],
    ['health, with a query', { url: '/v1/health?x=1', headers: { host } }],
  ])('serves %s', (_what, caller) => {
    expect(refusalOf({ url: URL, isLocalUser: false, ...caller })).toBeNull();
  });

  it.each([
    ['no key', 'unauthorized', { headers: { host } }],
    ['a wrong key', 'unauthorized', { headers: { host, 'x-api-key': `${KEY}x` } }],
    ['the beginning of the key', 'unauthorized', { headers: { host, 'x-api-key': 'a-key' } }],
    ['an empty key', 'unauthorized', { headers: { host, 'x-api-key': '' } }],
    ['another scheme', 'unauthorized', { headers: { host, authorization: `Basic ${KEY}` } }],
    ['a path like health', 'unauthorized', { url: '/v1/health/../sandboxes', headers: { host } }],
    ['a foreign name that resolves to this host', 'forbidden', { headers: { host: 'evil.example' } }],
    [
      'a name that starts like a loopback address',
      'forbidden',
      { headers: { host: '127.0.0.1.evil.example', 'x-api-key': KEY } },
    ],
    ['no Host', 'forbidden', { headers: { 'x-api-key': KEY } }],
    ['a web page, with the key', 'forbidden', { headers: { host, origin: 'http://localhost', 'x-api-key': KEY } }],
    ['a web page, on the unix socket', 'forbidden', { isLocalUser: true, headers: { host, origin: 'null' } }],
  ])('refuses %s: %s', (_what, code, caller) => {
    expect(refusalOf({ url: URL, isLocalUser: false, ...caller })).toBe(code);
  });

  it('serves names that the owner configured, and the address of the connection', () => {
    const ask = (name: string, localAddress?: string) => {
      const headers = { host: name, 'x-api-key': KEY };
      const names = ['box.example', 'api.box.example'];
      return refusalOf({ url: URL, isLocalUser: false, localAddress, headers }, { names });
    };
    expect(ask('api.box.example:443')).toBeNull();
    expect(ask('API.Box.Example')).toBeNull();
    expect(ask('x.box.example')).toBe('forbidden');
    expect(ask('192.0.2.7:7070', '192.0.2.7')).toBeNull();
    expect(ask('192.0.2.7', '::ffff:192.0.2.7')).toBeNull();
    expect(ask('[2001:db8::1]:80', '2001:db8::1')).toBeNull();
    expect(ask('192.0.2.8', '192.0.2.7')).toBe('forbidden');
  });
});
