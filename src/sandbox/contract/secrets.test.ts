import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import { describeError } from '../../base/errors.ts';
import { parseEgress } from '../../host/runtime/network.ts';
import { makeSecrets, requireValues, secretInfo, withValues } from './secrets.ts';
import { makeSpec, unwritten, withSecrets } from './spec.ts';

const VALUE = 'sk-live-0123456789-abcdefghijklmn';
const secret = { name: 'API_KEY', hosts: ['API.example.com:443', 'b.example.'], value: VALUE };
const make = (change: object) => () => makeSecrets([{ ...secret, ...change }]);

describe('makeSecrets', () => {
  it('placeholder: as long as the value, and not guessable', () => {
    const [one, other] = [makeSecrets([secret])[0], makeSecrets([secret])[0]];
    expect(one?.hosts).toEqual(['api.example.com', 'b.example']);
    expect(one?.placeholder).toMatch(/^NV_SECRET_[\w-]{23}$/);
    expect(one?.placeholder).not.toBe(other?.placeholder);
    expect(make({ value: 'x'.repeat(16) })()[0]?.placeholder).toMatch(/^NV_[\w-]{13}$/);
  });
  it('places: none by default; each once', () => {
    expect(make({})()[0]?.places).toEqual([]);
    const places = ['X-A', 'x-a', 'X-B'].map((name) => ({ in: 'header', name }));
    expect(make({ places })()[0]?.places).toEqual([places[0], places[2]]);
  });
  it('a secret of the same name keeps its placeholder', () => {
    const before = makeSecrets([secret]);
    const [after] = makeSecrets([{ ...secret, value: `${VALUE}more` }], before);
    expect(after?.placeholder).toBe(before[0]?.placeholder);
    expect(after?.value?.reveal()).toBe(`${VALUE}more`);
  });
  it.each([
    ['too short', { value: 'x'.repeat(15) }],
    ['too long', { value: 'x'.repeat(4097) }],
    ['a line end', { value: `${VALUE}\r\nHost: evil` }],
    ['a NUL', { value: `${VALUE}\0` }],
    ['a space', { value: `${VALUE} ` }],
    ['beyond ASCII', { value: `${VALUE}ü` }],
    ['no name', { name: 'a b' }],
    ['no host', { hosts: [] }],
    ['a pattern', { hosts: ['*.example.com'] }],
    ['another port', { hosts: ['a.example:8443'] }],
    ['an address', { hosts: ['192.0.2.1'] }],
    ['an address in another spelling', { hosts: ['10.0x1'] }],
    ['one label', { hosts: ['localhost'] }],
    ['a URL', { hosts: ['https://a.example'] }],
    ['a field that routes', { places: [{ in: 'header', name: 'Host' }] }],
    ['a field that proxies log', { places: [{ in: 'header', name: 'X-Forwarded-For' }] }],
    ['a field that is not passed on', { places: [{ in: 'header', name: 'range' }] }],
    ['no field', { places: [{ in: 'header', name: 'a b' }] }],
    ['an encoded parameter', { places: [{ in: 'query', name: 'a%20' }] }],
    ['a long name', { places: [{ in: 'query', name: 'a'.repeat(65) }] }],
    ['another kind of place', { places: [{ in: 'body', name: 'a' }] }],
    ['nine places', { places: [...'abcdefghi'].map((name) => ({ in: 'query', name })) }],
  ])('refuses %s without disclosing the value', (_what, change) => {
    let error: unknown;
    try {
      make(change)();
    } catch (caught) {
      error = caught;
    }
    expect(error).toMatchObject({ code: 'spec_invalid' });
    expect(describeError(error)).not.toContain(VALUE.slice(0, 8));
  });
  it('refuses a name that is used twice, or is in env', () => {
    expect(() => makeSecrets([secret, secret])).toThrow('same name');
    const options = { env: { API_KEY: 'x' }, secrets: [secret] };
    expect(() => makeSpec(options, 4)).toThrow('API_KEY');
  });
});

describe('secrets of a spec', () => {
  it('secrets add a network that allows only their hosts, and keep a requested one', () => {
    const { network } = makeSpec({ secrets: [secret] }, 4);
    expect(network).toEqual({ policy: { mode: 'allowlist', allow: [], deny: [] }, limits: {} });
    const open = makeSpec({ secrets: [secret], network: { mode: 'open' } }, 4, parseEgress);
    expect(open.network?.policy.mode).toBe('open');
    expect(makeSpec({}, 4).network).toBeNull();
  });
  it('values are never in a row, a log or the public view', () => {
    const spec = makeSpec({ secrets: [secret] }, 4);
    const shown = [JSON.stringify(spec), inspect(spec, { depth: 9 }), `${spec.secrets[0]?.value}`];
    for (const text of [...shown, JSON.stringify(secretInfo(spec.secrets))]) {
      expect(text).not.toContain(VALUE);
    }
    expect(shown[0]).toContain(spec.secrets[0]?.placeholder);
  });
  it('secrets from disk get the values known here; requireValues refuses missing ones', () => {
    const places = [{ in: 'query', name: 'key' }] as const;
    const spec = makeSpec({ secrets: [{ ...secret, places }] }, 4);
    const stored = JSON.parse(JSON.stringify(spec)) as typeof spec;
    expect(() => requireValues('x', stored.secrets)).toThrow(
      expect.objectContaining({
        message: expect.stringContaining('API_KEY'),
        remedy: expect.stringMatching(/--secret API_KEY@api\.example\.com,b\.example:query=key$/),
      }),
    );
    expect(secretInfo(stored.secrets)).toMatchObject([{ held: false }]);
    expect(unwritten(stored, spec).secrets[0]?.value?.reveal()).toBe(VALUE);
    expect(withValues(stored.secrets, [])[0]?.value).toBeNull();
    const again = withSecrets(stored, { secrets: [secret] });
    expect(again.secrets[0]?.placeholder).toBe(spec.secrets[0]?.placeholder);
    expect(() => requireValues('x', again.secrets)).not.toThrow();
  });
});
