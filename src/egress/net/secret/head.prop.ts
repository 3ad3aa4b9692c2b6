/** Tests random requests with placeholders anywhere, judged by an oracle that shares no code with `head.ts`. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { SecretPlace } from '../../../base/request/secret-place.ts';
import { SecretValue } from '../../../base/request/secret-value.ts';
import { SecretExchange } from './exchange.ts';
import type { EgressSecret } from './secret.ts';

const RUNS = { numRuns: 5000 };
const TEXTS = [
  { name: 'ONE', mark: 'NV_SECRET_aaaaaaaaaaaaaaaaaaaa', value: 'first-secret/+0123456789' },
  { name: 'TWO', mark: 'NV_SECRET_bbbbbbbbbbbbbbbbbbbb', value: 'second-secret/+012345678' },
] as const;
const base64 = (text: string): string => Buffer.from(text, 'latin1').toString('base64');

/** Names in lower case, each with whether a server may take it for a credential. */
const FIELDS: Readonly<Record<string, boolean>> = {
  authorization: true,
  'x-api-key': true,
  'x-auth-token': true,
  'private-token': true,
  'proxy-authorization': true,
  'x-amz-security-token': true,
  x_api_key: true,
  cookie: true,
  'x-amz-meta-l': false,
  'x-goog-meta-token': false,
  'user-agent': false,
  'x-custom': false,
  range: false,
  'x-forwarded-for': false,
};
const DEFAULT_FIELDS: readonly string[] = ['authorization', 'x-api-key', 'x-auth-token', 'private-token'];
const PARAMETERS: Readonly<Record<string, boolean>> = {
  key: true,
  'k%65y': true,
  'X-Amz-Signature': true,
  access_token: true,
  a: false,
  prefix: false,
  pageToken: false,
};

const mark = fc.constantFrom(...TEXTS.map((one) => one.mark));
const own = fc.constantFrom('mine', '', 'x y', 'a, b', 'Bearer mine');
const value = fc.oneof(
  own,
  mark,
  mark.map((text) => `Bearer ${text}`),
  mark.map((text) => `Token token="${text}"`),
  mark.map((text) => `Bearer mine, Bearer ${text}`),
  mark.map((text) => `x${text}y`),
  fc.tuple(mark, mark).map((two) => two.join(' ')),
  fc.tuple(fc.oneof(mark, own), fc.oneof(mark, own)).map((pair) => `Basic ${base64(pair.join(':'))}`),
);
const parameterValue = fc.oneof(
  fc.constantFrom('mine', '', 'x;key=mine'),
  mark,
  mark.map((text) => `x;key=${text}`),
  mark.map((text) => text.replaceAll('_', '%5F')),
);
const anyCase = fc.boolean();
const anyField = fc.tuple(fc.constantFrom(...Object.keys(FIELDS)), value, anyCase);
/** Often correct, so that some requests pass. */
const usual = fc.tuple(
  fc.constantFrom(...DEFAULT_FIELDS, 'x-custom'),
  mark.map((text) => `Bearer ${text}`),
  anyCase,
);
const fields = fc
  .tuple(fc.array(usual, { maxLength: 1 }), fc.array(anyField, { maxLength: 2 }))
  .map((some) => some.flat());
const request = fc.record({
  path: fc.oneof(
    { weight: 9, arbitrary: fc.constant('/bucket/o') },
    mark.map((one) => `/${one}`),
  ),
  query: fc.array(fc.tuple(fc.constantFrom(...Object.keys(PARAMETERS)), parameterValue), { maxLength: 2 }),
  fields,
  body: fc.oneof(fc.constant(''), mark),
});
const place = fc.constantFrom<SecretPlace>(
  { in: 'header', name: 'Authorization' },
  { in: 'header', name: 'X-Custom' },
  { in: 'header', name: 'Cookie' },
  { in: 'query', name: 'key' },
  { in: 'query', name: 'prefix' },
);
const places = fc.oneof(fc.constant([]), fc.array(place, { maxLength: 2 }));

it('a value leaves only at its place, in a request without another credential', () => {
  const counts = { filled: 0, refused: 0, plain: 0 };
  fc.assert(
    fc.property(request, places, places, ({ path, query, fields, body }, first, second) => {
      const secrets = TEXTS.map((text, index): EgressSecret => {
        const bound = [first, second][index] ?? [];
        const secret = { name: text.name, hosts: ['a.example'], placeholder: text.mark };
        return { ...secret, places: bound, value: new SecretValue(text.value) };
      });
      const target = query.length === 0 ? path : `${path}?${query.map((one) => one.join('=')).join('&')}`;
      const lines = fields.map(([name, text, isUpper]) => `${isUpper ? name.toUpperCase() : name}: ${text}`);
      const head = [`PUT ${target} HTTP/1.1`, 'Host: a.example', `Content-Length: ${body.length}`, ...lines];
      const exchange = new SecretExchange({
        host: 'a.example',
        secrets,
        judge: () => ({ ok: true, name: 'a.example' }),
      });
      const bytes = Buffer.from(`${head.join('\r\n')}\r\n\r\n${body}`, 'latin1');
      const out = exchange.fromGuest(bytes);
      const sent = Buffer.concat(out.flatMap((one) => (one.kind === 'to_upstream' ? [one.bytes] : []))).toString(
        'latin1',
      );
      const isFilled = checkSent(sent, secrets);
      const isRefused = out.some(({ kind }) => kind === 'refused');
      expect(isRefused ? sent : isRefused).toBe(isRefused ? '' : false);
      const hasMark = `${target} ${fields.map(([, text]) => decoded(text)).join(' ')}`.includes('NV_');
      // A request without a placeholder is never refused.
      expect(isRefused && !hasMark).toBe(false);
      counts[isRefused ? 'refused' : isFilled ? 'filled' : 'plain'] += 1;
    }),
    RUNS,
  );
  for (const count of Object.values(counts)) expect(count).toBeGreaterThan(RUNS.numRuns / 100);
});

/** @returns true if it contains a value */
function checkSent(sent: string, secrets: readonly EgressSecret[]): boolean {
  if (sent === '') return false;
  const [head = '', body = ''] = sent.split('\r\n\r\n');
  const [line = '', ...fields] = head.split('\r\n');
  const [, path = '', text] = /^PUT ([^?]*)(?:\?(.*))? HTTP/.exec(line) ?? [];
  expect(valuesIn(`${path} ${body}`)).toEqual([]);
  const slots = [
    ...(text?.split('&') ?? []).map((pair) => {
      const [name = '', ...rest] = pair.split('=');
      return { in: 'query', name, text: rest.join('='), mayAuthenticate: PARAMETERS[name] };
    }),
    ...fields.map((field) => {
      const [name = '', ...rest] = field.split(': ');
      const mayAuthenticate = FIELDS[name.toLowerCase()] ?? false;
      return { in: 'header', name: name.toLowerCase(), text: rest.join(': '), mayAuthenticate };
    }),
  ];
  const filled = slots.filter((slot) => valuesIn(slot.text).length > 0);
  for (const slot of filled) {
    for (const name of valuesIn(slot.text)) {
      const { places: bound = [] } = secrets.find((one) => one.name === name) ?? {};
      const allowed =
        bound.length === 0
          ? DEFAULT_FIELDS.map((field) => `header ${field}`)
          : bound.map((one) => `${one.in} ${one.in === 'header' ? one.name.toLowerCase() : one.name}`);
      expect(allowed).toContain(`${slot.in} ${slot.name}`);
    }
    // Alone there: no list of credentials, no second cookie.
    expect(slot.text).not.toMatch(/[,;]/);
  }
  if (filled.length === 0) return false;
  const rest = slots.filter((slot) => !filled.includes(slot) && slot.text !== '');
  expect(rest.filter(({ mayAuthenticate }) => mayAuthenticate)).toEqual([]);
  expect(rest.filter(({ text: other }) => /(?:^|;)key=/.test(other))).toEqual([]);
  return true;
}

/** Names of the secrets in a text: plain, percent-encoded, or in Basic. */
function valuesIn(text: string): string[] {
  const shown = `${text} ${decodeURIComponent(text)} ${decoded(text)}`;
  return TEXTS.filter((one) => shown.includes(one.value)).map(({ name }) => name);
}

function decoded(text: string): string {
  const words = text.split(' ').map((word) => Buffer.from(word, 'base64').toString('latin1'));
  return `${text} ${words.join(' ')}`;
}
