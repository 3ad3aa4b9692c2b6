/**
 * Requests of a guest with placeholders: a secret's value leaves only in a credential field, never beside a credential of
 * the guest's own, and the same however the requests are cut.
 */
import { SecretValue } from '../../src/base/request/secret-value.ts';
import { HttpRequestReader } from '../../src/egress/net/http/requests.ts';
import { DEFAULT_PLACES } from '../../src/egress/net/secret/credentials.ts';
import { SecretExchange } from '../../src/egress/net/secret/exchange.ts';
import { sameHoweverCut } from './cuts.ts';
import { must, target } from './target.ts';

const HOST = 'a.example';
const VALUE = 'val_6f1c93d0aa7b42e5';
const PLACEHOLDER = 'NV_aaaaaaaaaaaaaaaaa';
const PLACED = 'NV_bbbbbbbbbbbbbbbbb';
const PLACED_VALUE = 'val_2b84c07fe19d36a1';
const SECRETS = [
  { name: 'K', hosts: [HOST], places: [], placeholder: PLACEHOLDER, value: new SecretValue(VALUE) },
  {
    name: 'Q',
    hosts: [HOST],
    places: [{ in: 'query' as const, name: 'key' }],
    placeholder: PLACED,
    value: new SecretValue(PLACED_VALUE),
  },
];
const CREDENTIALS: ReadonlySet<string> = new Set(DEFAULT_PLACES.map(({ name }) => name));

export const secretRequests = target(
  'secret-requests',
  (bytes) => {
    const text = bytes.toString('latin1');
    if (text.includes(VALUE) || text.includes(PLACED_VALUE)) return;
    let sent = '';
    sameHoweverCut(bytes, (pieces) => {
      const judge = () => ({ ok: true as const, name: HOST });
      const exchange = new SecretExchange({ host: HOST, secrets: SECRETS, judge });
      const out = pieces.flatMap((piece) => exchange.fromGuest(piece));
      const upstream = out.map((each) => (each.kind === 'to_upstream' ? each.bytes : Buffer.of()));
      sent = Buffer.concat(upstream).toString('latin1');
      return JSON.stringify([out.filter(({ kind }) => kind !== 'to_upstream'), sent]);
    });
    for (const piece of new HttpRequestReader('https').push(Buffer.from(sent, 'latin1'))) {
      must(piece.kind !== 'refused', 'what was sent is refused');
      if (piece.kind === 'body') must(!holds(Buffer.from(piece.bytes).toString('latin1')), 'body');
      else if (piece.kind === 'head') mustBePlaced(piece.head);
    }
  },
  {
    seeds: [
      `Authorization: Bearer ${PLACEHOLDER}`,
      `X-Api-Key: ${PLACEHOLDER}\r\nCookie: a=b\r\nX-Other: y`,
      `Authorization: Basic ${Buffer.from(`user:${PLACEHOLDER}`).toString('base64')}`,
      `X-Meta: ${PLACEHOLDER}\r\nAuthorization: Bearer mine`,
      'Authorization: Bearer mine\r\nX-Auth-Token: other',
      'Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: x',
    ].flatMap((fields) => [
      `GET /x?key=${PLACED}&a=b HTTP/1.1\r\nHost: a.example\r\n${fields}\r\n\r\n`,
      `POST /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 20\r\n${fields}\r\n\r\n${PLACEHOLDER}`,
    ]),
  },
);

function mustBePlaced(head: {
  readonly path: string;
  readonly fields: readonly { readonly name: string; readonly value: string }[];
}): void {
  const [path = '', query = ''] = head.path.split(/\?(.*)/s);
  must(!holds(path), 'a secret is in a path');
  const filled = query.split('&').filter(holds);
  must(
    filled.every((each) => each === `key=${PLACED_VALUE}`),
    `a secret is in the query ${query}`,
  );
  const withSecret = head.fields.filter(({ name, value }) => holds(name) || holds(value));
  for (const { name, value } of withSecret) {
    must(CREDENTIALS.has(name.toLowerCase()), `a secret is in ${name}`);
    must(!decoded(value).includes(PLACED_VALUE), 'a secret is in a field instead of the query');
  }
  if (filled.length + withSecret.length === 0) return;
  const other = head.fields.find(
    ({ name, value }) =>
      value !== '' && !holds(value) && (CREDENTIALS.has(name.toLowerCase()) || name.toLowerCase() === 'cookie'),
  );
  must(other === undefined, `the credential ${other?.name} is beside a secret`);
}

/** Also as Basic credentials have it. */
function holds(text: string): boolean {
  return [text, decoded(text)].some((each) => each.includes(VALUE) || each.includes(PLACED_VALUE));
}

function decoded(text: string): string {
  const words = text.split(/\s+/).map((word) => Buffer.from(word, 'base64').toString('latin1'));
  return [text, ...words].join(' ');
}
