import { describe, expect, it } from 'vitest';
import { SecretValue } from '../../../base/request/secret-value.ts';
import { parseHead } from '../http/head.ts';
import { hiddenTexts } from './hidden-texts.ts';
import { type EgressSecret, hidesAny, secretsOf, withSecretHosts } from './secret.ts';
import { withoutSetFields, withSetFields } from './set-fields.ts';

const field = (name: string, hosts: readonly string[], value: string): EgressSecret => ({
  name,
  sets: name,
  hosts,
  places: [{ in: 'header', name }],
  placeholder: `NV_SECRET_${name}`,
  value: new SecretValue(value),
});

describe('secretsOf: fields that are set', () => {
  const exact = field('X-Exact', ['api.example.com'], 'a');
  const near = field('X-Near', ['*.b.example.com'], 'b');
  const wide = field('X-Wide', ['*.example.com'], 'c');
  const top = field('X-Top', ['*.com'], 'd');
  const all = [top, wide, near, exact];
  it.each([
    ['api.example.com', [exact]],
    ['www.example.com', [wide]],
    ['a.b.example.com', [near]],
    ['x.a.b.example.com', [near]],
    ['b.example.com', [wide]],
    ['example.com', [top]],
    ['example.org', []],
    ['com', []],
  ])('%s has those of its name, otherwise of the longest pattern above it', (host, expected) => {
    expect(secretsOf(all, host)).toEqual(expected);
  });
  it('a placeholder has no pattern, and is kept beside a field', () => {
    const secret = { ...exact, sets: undefined, name: 'KEY' };
    expect(secretsOf([secret, wide], 'api.example.com')).toEqual([secret, wide]);
    expect(secretsOf([secret, wide], 'www.example.com')).toEqual([wide]);
  });
  it('open no host', () => {
    const policy = { mode: 'allowlist', allow: [], deny: [] } as const;
    const authority = { contextFor: () => Promise.reject(new Error('unused')) };
    const roots = () => {
      throw new Error('unused');
    };
    expect(withSecretHosts(policy, { secrets: all, authority, roots }).allow).toEqual([]);
  });
});

describe('withSetFields', () => {
  const set = [field('X-Api-Key', ['a.example'], 'Bearer x'), field('X-Empty', ['a.example'], '')];
  it('replaces the guest’s fields, in any case and spelling, and keeps others', () => {
    const lines = [
      'GET /p?q HTTP/1.1',
      'Host: a.example',
      'x-api-KEY: 1',
      'X_Api_Key: 2',
      'X-Api: 3',
      'Connection: close, x-API-key',
    ];
    const parsed = parseHead(lines, 'https');
    if (!parsed.ok) throw new Error(parsed.reason);
    expect(withSetFields(withoutSetFields(parsed.head, set).forward, set)).toBe(
      'GET /p?q HTTP/1.1\r\nHost: a.example\r\nX-Api: 3\r\nConnection: close\r\nX-Api-Key: Bearer x\r\nX-Empty: \r\n\r\n',
    );
  });
});

describe('hiddenTexts', () => {
  const password = 'correct-horse-battery';
  const basic = Buffer.from(`someone:${password}`).toString('base64');
  const short = Buffer.from('somebody-else:pass1234').toString('base64');
  const odd = Buffer.from('ich:mein passwort ist grün').toString('base64');
  it.each([
    ['Authorization', 'Bearer 0123456789abcdef', ['0123456789abcdef']],
    ['Authorization', 'Bearer short789', ['short789']],
    ['Authorization', 'Bearer tiny', []],
    ['Authorization', `Basic ${basic}`, [basic, basic.replace(/=+$/, ''), password]],
    ['Authorization', `Basic ${short}`, [short, short.replace(/=+$/, ''), 'somebody-else', 'pass1234']],
    ['Authorization', `Basic ${odd}`, [odd, 'passwort']],
    ['Authorization', 'Token token="0123456789abcdef"', ['token="0123456789abcdef"', '0123456789abcdef']],
    ['Cookie', 'sid=0123456789abcdef; theme=dark', ['sid=0123456789abcdef;', '0123456789abcdef']],
    ['X-Auth', 'AKIAIOSFODNN7EXAMPLE x', ['AKIAIOSFODNN7EXAMPLE']],
    ['X-Tenant', '0123456789abcdef', ['0123456789abcdef']],
    ['X-Trace', 'on', []],
    ['X-Trace', 'short789', []],
    ['Accept', 'application/vnd.github+json', []],
    ['User-Agent', 'agent-of-somebody/1.0', []],
  ])('%s: %s', (name, value, expected) => {
    expect(hiddenTexts(name, value)).toEqual(expected);
    expect(hidesAny([field(name, ['a.example'], value)])).toBe(expected.length > 0);
  });
});
