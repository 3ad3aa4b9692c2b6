import { describe, expect, it } from 'vitest';
import { REQUEST_LIMITS } from './limits.ts';
import { makeRequestHeaders } from './request-headers.ts';
import { placeholdersOf, requireValues, type SandboxSecret, secretInfo, withValues } from './secrets.ts';
import { makeSpec, withSecrets } from './spec.ts';

const VALUE = 'Bearer sk-0123456789abcdef';
const header = { name: 'Authorization', hosts: ['api.example.com'], value: VALUE };
const make = (change: Partial<typeof header>) => makeRequestHeaders([{ ...header, ...change }]);

describe('makeRequestHeaders', () => {
  it('keeps the value out of everything that is written, and out of the guest', () => {
    const made = makeRequestHeaders([header]);
    expect(made[0]?.value?.reveal()).toBe(VALUE);
    expect(JSON.stringify([made, secretInfo(made), placeholdersOf(made)])).not.toContain('sk-0');
    expect(placeholdersOf(made)).toEqual({});
    expect(secretInfo(made)).toEqual([
      {
        name: 'Authorization',
        sets: 'Authorization',
        hosts: ['api.example.com'],
        places: [{ in: 'header', name: 'Authorization' }],
        held: true,
      },
    ]);
  });
  it('bounds all values together, counting each once per host', () => {
    const hosts = Array.from({ length: 16 }, (_, at) => `h${at}.example.com`);
    const many = (...names: string[]) =>
      makeRequestHeaders(names.map((name) => ({ name, hosts, value: 'x'.repeat(2000) })));
    expect(many('X-A', 'X-B')).toHaveLength(2);
    expect(() => many('X-A', 'X-B', 'X-C')).toThrow('at most 65536 bytes');
  });
  it.each(['a\r\nb', 'a\nb', 'a\0b', 'ä', 'x'.repeat(4097)])('the value %j is refused', (value) => {
    expect(() => make({ value })).toThrow(expect.objectContaining({ code: 'spec_invalid' }));
    expect(() => make({ value })).not.toThrow(value);
  });
  it.each([
    ...['Host', 'content-length', 'Connection', 'Transfer-Encoding', 'Keep-Alive', 'TE', 'Trailer'],
    ...['Upgrade', 'Proxy-Authorization', 'Proxy-Connection', 'Expect', 'Accept-Encoding', 'Range'],
    ...['Sec-WebSocket-Key', 'Sec-WebSocket-Protocol', 'X-Forwarded-Host', 'Content_Length', 'HOST'],
    ...['', 'a b', 'a:b', 'a\r\nb', 'ä', 'x'.repeat(65)],
  ])('the field %j is refused', (name) => {
    expect(() => make({ name })).toThrow(expect.objectContaining({ code: 'spec_invalid' }));
  });
  it.each([
    ...['', '*', '*.', '1.2.3.4', '*.2.3.4', 'a', 'a.example:443', 'https://a.example', 'a.*.example'],
    ...['**.example', '*a.example', 'a.example/x', '10.0.0.0/8', `${'a'.repeat(64)}.example`],
  ])('the host %j is refused', (host) => {
    expect(() => make({ hosts: [host] })).toThrow(expect.objectContaining({ code: 'spec_invalid' }));
  });
  it('hosts are canonical', () => {
    expect(make({ hosts: ['API.Example.com.', 'api.example.com', '*.COM'] })[0]?.hosts).toEqual([
      'api.example.com',
      '*.com',
    ]);
  });
  it('fields, and fields and bytes of a host, are bounded', () => {
    const { requestHeadersMax, requestHeadersOfHostMax } = REQUEST_LIMITS;
    const many = (length: number, host: (index: number) => string) =>
      Array.from({ length }, (_, index) => ({ ...header, name: `X-${index}`, hosts: [host(index)] }));
    const own = (index: number) => `h${index}.example`;
    expect(makeRequestHeaders(many(requestHeadersMax, own))).toHaveLength(requestHeadersMax);
    expect(() => makeRequestHeaders(many(requestHeadersMax + 1, own))).toThrow('at most');
    expect(() => makeRequestHeaders(many(requestHeadersOfHostMax + 1, () => 'a.example'))).toThrow(
      'fields of one host',
    );
    const large = many(2, () => 'a.example').map((one) => ({ ...one, value: 'x'.repeat(4000) }));
    expect(() => makeRequestHeaders(large)).toThrow('bytes of one host');
    expect(() => makeRequestHeaders([header, { ...header, name: 'AUTHORIZATION' }])).toThrow('twice');
  });
});

describe('withSecrets: header fields', () => {
  const secret = { name: 'KEY', hosts: ['b.example'], value: 'sk-0123456789abcdef' };
  it('changing fields keeps secrets, and changing secrets keeps fields', () => {
    const spec = makeSpec({ secrets: [secret], requestHeaders: [header] }, 1);
    const names = ({ secrets }: { secrets: readonly SandboxSecret[] }) => secrets.map(({ name }) => name);
    expect(names(spec)).toEqual(['KEY', 'Authorization']);
    const without = withSecrets(spec, { requestHeaders: [] });
    expect(names(without)).toEqual(['KEY']);
    expect(without.secrets[0]?.placeholder).toBe(spec.secrets[0]?.placeholder);
    expect(names(withSecrets(spec, { secrets: [] }))).toEqual(['Authorization']);
  });
  it('fields alone grant no network, and may have the name of a variable', () => {
    const spec = makeSpec({ requestHeaders: [{ ...header, name: 'TOKEN' }], env: { TOKEN: 'x' } }, 1);
    expect(spec.network).toBeNull();
  });
  it('a sandbox read from disk refuses to start until its fields are set again', () => {
    const spec = makeSpec({ requestHeaders: [header] }, 1);
    const stored = JSON.parse(JSON.stringify(spec)) as typeof spec;
    expect(() => requireValues('x', stored.secrets)).toThrow(
      expect.objectContaining({ code: 'secrets_missing', remedy: expect.stringContaining('rules') }),
    );
    expect(withValues(stored.secrets, spec.secrets)[0]?.value?.reveal()).toBe(VALUE);
    const again = withSecrets(stored, { requestHeaders: [header] });
    expect(() => requireValues('x', again.secrets)).not.toThrow();
  });
});
