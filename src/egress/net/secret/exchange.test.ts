import { gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { OTHER_PLACEHOLDER, OTHER_TOKEN, PLACEHOLDER, SECRETS, TOKEN } from '../../../../test/support/secrets.ts';
import { SecretValue } from '../../../base/request/secret-value.ts';
import { type ExchangeOutput, SecretExchange } from './exchange.ts';
import { type EgressSecret, matcherOf } from './secret.ts';

const OK = 'HTTP/1.1 200 OK\r\n';
const crlf = (...lines: string[]): string => `${lines.join('\r\n')}\r\n\r\n`;
const get = (...fields: string[]): string => crlf('GET /x HTTP/1.1', 'Host: a.example', ...fields);
const BEARER = `Authorization: Bearer ${PLACEHOLDER}`;

class World {
  readonly outputs: ExchangeOutput[] = [];
  readonly exchange: SecretExchange;

  constructor(secrets: readonly EgressSecret[] = SECRETS) {
    const judge = () => ({ ok: true, name: 'a.example' }) as const;
    this.exchange = new SecretExchange({ host: 'a.example', secrets, judge });
  }

  guest(text: string): this {
    this.outputs.push(...this.exchange.fromGuest(Buffer.from(text, 'latin1')));
    return this;
  }

  upstream(text: string | Buffer, step = Number.POSITIVE_INFINITY): this {
    const bytes = Buffer.isBuffer(text) ? text : Buffer.from(text, 'latin1');
    for (let at = 0; at < bytes.length; at += step)
      this.outputs.push(...this.exchange.fromUpstream(bytes.subarray(at, at + step)));
    return this;
  }

  end(failure?: string): this {
    this.outputs.push(...this.exchange.upstreamEnded(failure));
    return this;
  }

  sent(kind: 'to_upstream' | 'to_guest'): string {
    const bytes = this.outputs.flatMap((one) => (one.kind === kind ? [one.bytes] : []));
    return Buffer.concat(bytes).toString('latin1');
  }

  get reasons(): string[] {
    return this.outputs.flatMap((one) => (one.kind === 'refused' ? [one.reason] : []));
  }

  get filled(): readonly string[] {
    return this.outputs.flatMap((one) => (one.kind === 'request' ? one.filled : []));
  }

  get unfilled(): readonly string[] {
    return this.outputs.flatMap((one) => (one.kind === 'unfilled' ? one.names : []));
  }
}

describe('SecretExchange: requests', () => {
  it('puts a secret into credential fields, including Basic, and requests uncompressed answers', () => {
    const basic = (secret: string): string => Buffer.from(`me:${secret}`).toString('base64');
    const world = new World().guest(
      crlf(
        'GET /x?y=1 HTTP/1.1',
        'Host: a.example',
        'Accept-Encoding: gzip, br',
        `X-Api-Key: ${PLACEHOLDER}`,
        `Authorization: Basic ${basic(PLACEHOLDER)}`,
      ),
    );
    expect(world.sent('to_upstream')).toBe(
      crlf(
        'GET /x?y=1 HTTP/1.1',
        'Host: a.example',
        `X-Api-Key: ${TOKEN}`,
        `Authorization: Basic ${basic(TOKEN)}`,
        'Accept-Encoding: identity',
      ),
    );
    expect(world.filled).toEqual(['API_KEY']);
  });
  it('keeps the fields of a request without a placeholder, and requests a whole uncompressed answer', () => {
    const own = get('X: y', 'Authorization: Bearer of-the-guest');
    const more = ['Accept-Encoding: gzip', 'TE: trailers', 'HTTP2-Settings: AAMAAABk'];
    const parts = ['Range: bytes=0-11', 'If-Range: "x"', 'Request-Range: bytes=0-11'];
    const text = own.replace('X: y', ['X: y', ...more, ...parts].join('\r\n'));
    expect(new World().guest(text).sent('to_upstream')).toBe(own.replace(/\r\n$/, 'Accept-Encoding: identity\r\n\r\n'));
  });
  it.each([
    ['secret_misplaced', get(`Connection: ${PLACEHOLDER}`)],
    ['secret_misplaced', get('Authorization: Bearer mine', `X-Amz-Meta-L: ${PLACEHOLDER}`)],
    ['credential_beside_secret', get('X-Auth-Token: mine', BEARER)],
    ['credential_beside_secret', get('Upgrade: websocket', 'X-Auth-Token: mine', BEARER)],
  ])('answers 403 %s with the remedy, sends nothing, and reports it: %j', (reason, text) => {
    const world = new World().guest(text);
    expect(world.sent('to_upstream')).toBe('');
    expect(world.reasons).toEqual([reason]);
    expect(world.sent('to_guest')).toMatch(/^HTTP\/1\.1 403 /);
    expect(world.sent('to_guest')).toMatch(/--secret API_KEY@HOST|omit it/);
    const unplaced = { kind: 'unplaced', names: ['API_KEY'], why: expect.any(String) };
    expect(world.outputs[0]).toEqual(unplaced);
    expect(world.outputs.at(-1)).toEqual({ kind: 'close' });
  });
  it('sends no cookies beside a secret, and reports it', () => {
    const world = new World().guest(get('Cookie: __cf_bm=x', BEARER));
    expect(world.sent('to_upstream')).toContain(TOKEN);
    expect(world.sent('to_upstream')).not.toContain('__cf_bm');
    expect(world.outputs).toContainEqual({ kind: 'without_cookies', names: ['API_KEY'] });
  });
  it.each(['Authorization: Bearer mine', 'X_Api_Key: mine', 'Cookie: session=mine'])(
    'refuses a credential in the trailer of a request with a secret: %s',
    (field) => {
      const head = crlf('POST /x HTTP/1.1', 'Host: a.example', 'Transfer-Encoding: chunked', BEARER);
      const world = new World().guest(head).guest(`1\r\na\r\n0\r\n${field}\r\n\r\n`);
      expect(world.reasons).toEqual(['credential_beside_secret']);
      expect(world.sent('to_upstream')).not.toContain('mine');
      expect(world.sent('to_guest')).toContain('HTTP/1.1 403');
      const plain = new World().guest(head.replace(`${BEARER}\r\n`, ''));
      plain.guest(`1\r\na\r\n0\r\n${field}\r\n\r\n`);
      expect(plain.sent('to_upstream')).toContain(field);
      const harmless = new World().guest(head).guest('0\r\nX-Checksum: mine\r\n\r\n');
      expect(harmless.sent('to_upstream')).toContain('X-Checksum: mine');
    },
  );
  it('never puts a secret into a body or a trailer', () => {
    const text =
      crlf('POST /x HTTP/1.1', 'Host: a.example', 'Transfer-Encoding: chunked') +
      `1e\r\n${PLACEHOLDER}\r\n0\r\nX: ${PLACEHOLDER}\r\n\r\n`;
    const world = new World().guest(text);
    const sent = text.replace('chunked\r\n', 'chunked\r\nAccept-Encoding: identity\r\n');
    expect(world.sent('to_upstream')).toBe(sent);
    expect(world.filled).toEqual([]);
  });
  it('passes the placeholder of another host’s secret unchanged, and reports it', () => {
    const world = new World().guest(get(`X-Api-Key: ${OTHER_PLACEHOLDER}`));
    expect(world.sent('to_upstream')).toContain(OTHER_PLACEHOLDER);
    expect(world.sent('to_upstream')).not.toContain(OTHER_TOKEN);
    expect(world.unfilled).toEqual(['OTHER_KEY']);
  });
  it.each([
    ['OPTIONS', []],
    ['GET', ['Max-Forwards: 0']],
    ['OPTIONS', ['Max-Forwards: 0']],
  ])('puts no secret into %s %j', (method, more) => {
    const world = new World().guest(crlf(`${method} /x HTTP/1.1`, 'Host: a.example', BEARER, ...more));
    expect(world.sent('to_upstream')).toContain(PLACEHOLDER);
    expect(world.unfilled).toEqual(['API_KEY']);
    expect(world.filled).toEqual([]);
  });
  it.each([
    ['method_refused', crlf('TRACE /x HTTP/1.1', 'Host: a.example', BEARER)],
    ['method_refused', crlf('trace /x HTTP/1.1', 'Host: a.example', BEARER)],
    ['host_not_sni', crlf('GET /x HTTP/1.1', 'Host: b.example', BEARER)],
    ['host_not_sni', crlf('GET https://b.example/ HTTP/1.1', 'Host: b.example', BEARER)],
    ['http_host_mismatch', crlf('GET https://b.example/ HTTP/1.1', 'Host: a.example', BEARER)],
    ['http_request_line', crlf('GET http://a.example/ HTTP/1.1', 'Host: a.example', BEARER)],
    ['http_host_repeated', get('Host: b.example', BEARER)],
    ['http_connect', crlf('CONNECT a.example:443 HTTP/1.1', 'Host: a.example', BEARER)],
    ['http_version', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    ['early', `${get('Upgrade: websocket', BEARER)}more`],
    ['http_upgrade', `${get('Upgrade: websocket', 'Content-Length: 1')}x`],
    ['http_upgrade', get('Upgrade: websocket, h2c', BEARER)],
    ['http_upgrade', get('Upgrade: websocket', 'Upgrade: h2c', BEARER)],
    ['http_upgrade', get('Upgrade: TLS/1.0', BEARER)],
  ])('refuses with %s: %j', (reason, text) => {
    const world = new World().guest(text);
    expect(world.reasons).toEqual([reason]);
    expect(world.sent('to_upstream').replace(/^GET [\s\S]*websocket[\s\S]*$/, '')).toBe('');
    expect(world.outputs.at(-1)?.kind === 'close').toBe(reason !== 'early');
  });
  it('answers a refused body after earlier requests, instead of its own request', () => {
    const chunked = crlf('POST /y HTTP/1.1', 'Host: a.example', 'Transfer-Encoding: chunked');
    const cut = `${chunked}1\r\na\r\n0\r\nX-Original-URL: /admin\r\n\r\n`;
    const alone = new World().guest(cut);
    expect(alone.reasons).toEqual(['http_chunk']);
    expect(alone.sent('to_guest')).toContain('400 Bad Request');
    const world = new World().guest(get()).upstream(`${OK}Content-Length: 2\r\n\r\na`).guest(cut);
    expect(world.sent('to_guest')).not.toContain('400');
    world.upstream('b');
    expect(world.sent('to_guest')).toMatch(/\r\n\r\nabHTTP\/1\.1 400 /);
    expect(world.outputs.at(-1)).toEqual({ kind: 'close' });
    expect(world.sent('to_upstream')).not.toContain('X-Original');
  });
  it('answers a refused second request after the first, as the last one', () => {
    const world = new World().guest(get(BEARER) + crlf('GET / HTTP/1.1', 'Host: b.example', BEARER) + get(BEARER));
    expect(world.sent('to_upstream').match(/Host/g)).toHaveLength(1);
    expect(world.sent('to_guest')).toBe('');
    world.upstream(`${OK}Content-Length: 2\r\n\r\nok`);
    expect(world.sent('to_guest')).toMatch(/^HTTP\/1\.1 200 [\s\S]*okHTTP\/1\.1 421 /);
    expect(world.outputs.at(-1)?.kind).toBe('close');
  });
  it('accepts the absolute form of its own name', () => {
    const text = crlf('GET https://a.example/x?y HTTP/1.1', 'Host: a.example', BEARER);
    expect(new World().guest(text).sent('to_upstream')).toMatch(/^GET \/x\?y HTTP[\s\S]*sk-live/);
  });
});

describe('SecretExchange: answers', () => {
  const steps = [1, 2, 7, 1000];
  const asked = (): World => new World().guest(get(BEARER));
  const spellings = [
    ...[TOKEN, encodeURIComponent(TOKEN), encodeURIComponent(TOKEN).replaceAll(/%../g, (byte) => byte.toLowerCase())],
    JSON.stringify(TOKEN),
    JSON.stringify(TOKEN).replaceAll('/', '\\/'),
  ];
  const told = `you said ${spellings.join(', ')}`;

  it.each(steps)('replaces a secret by its placeholder in head and body, %i bytes at a time', (step) => {
    const text = `${OK}X-Seen: Bearer ${TOKEN}\r\nContent-Length: ${told.length}\r\n\r\n${told}`;
    const seen = asked().upstream(text, step).sent('to_guest');
    expect(seen).toHaveLength(text.length);
    expect(seen).toContain(`X-Seen: Bearer ${PLACEHOLDER}\r\n`);
    expect(seen).toContain(`you said ${PLACEHOLDER}, ${PLACEHOLDER}`);
    expect(seen).not.toContain('sk-live');
  });
  it.each(steps)('replaces a secret that spans chunks, %i bytes at a time', (step) => {
    const chunks = [told.slice(0, 12), told.slice(12, 20), told.slice(20)];
    const body = chunks.map((one) => `${one.length.toString(16)};x=y\r\n${one}\r\n`).join('');
    const text = `${OK}Transfer-Encoding: chunked\r\n\r\n${body}0\r\nX: ${TOKEN}\r\n\r\n`;
    const seen = asked().upstream(text, step).sent('to_guest');
    const data = unchunked(seen.slice(seen.indexOf('\r\n\r\n') + 4));
    expect(data).toHaveLength(told.length);
    expect(data).toContain(`you said ${PLACEHOLDER},`);
    expect(seen.replaceAll('\r\n', '')).not.toMatch(/sk-|live/);
  });
  it('replaces a secret in a body that ends with the connection', () => {
    const world = asked()
      .upstream(`${OK}\r\n${TOKEN}${TOKEN.slice(0, 9)}`)
      .end();
    expect(world.sent('to_guest')).toBe(`${OK}\r\n${PLACEHOLDER}${TOKEN.slice(0, 9)}`);
    expect(world.outputs.at(-1)?.kind).toBe('close');
  });
  it('replaces Basic credentials in the form that was sent', () => {
    const before = Buffer.from(`me:${PLACEHOLDER}`).toString('base64');
    const after = Buffer.from(`me:${TOKEN}`).toString('base64');
    const world = new World().guest(get(`Authorization: Basic ${before}`));
    expect(world.sent('to_upstream')).toContain(after);
    world.upstream(`${OK}Content-Length: ${after.length}\r\n\r\n${after}`);
    expect(world.sent('to_guest')).toMatch(new RegExp(`\r\n\r\n${before}$`));
  });
  it('replaces a secret that only an earlier connection sent', () => {
    const seen = new World().guest(get()).upstream(`${OK}Content-Length: 30\r\n\r\n${TOKEN}`);
    expect(seen.sent('to_guest')).toContain(PLACEHOLDER);
  });
  it('cuts chunks alike for a right and a wrong guess of the beginning of a secret', () => {
    const chunk = (text: string): string => `${text.length.toString(16)}\r\n${text}\r\n`;
    const sizes = (guess: string): number[] => {
      const body = ['hello ', guess, ' bye', guess].map(chunk).join('');
      const text = `${OK}Transfer-Encoding: chunked\r\n\r\n${body}0\r\n\r\n`;
      const world = new World().guest(get()).upstream(text);
      return world.outputs.flatMap((one) => (one.kind === 'to_guest' ? [one.bytes.length] : []));
    };
    for (let length = 1; length < TOKEN.length; length += 1)
      expect(sizes(TOKEN.slice(0, length))).toEqual(sizes('x'.repeat(length)));
  });
  it.each([
    ['as .NET writes JSON', TOKEN.replaceAll('+', '\\u002B').replaceAll('"', '\\u0022')],
    ['in HTML', TOKEN.replaceAll('+', '&#43;').replaceAll('"', '&quot;').replaceAll('/', '&#x2F;')],
    ['as Python quotes it', encodeURIComponent(TOKEN).replaceAll('%2F', '/')],
    ['every character escaped', [...TOKEN].map((one) => `%${one.charCodeAt(0).toString(16)}`).join('')],
    ['in base64 of a longer text', Buffer.from(`{"k":"${TOKEN}"}`).toString('base64')],
  ])('replaces a secret %s', (_, spelled) => {
    const length = `Content-Length: ${spelled.length}\r\n\r\n`;
    const seen = new World().guest(get()).upstream(`${OK}${length}${spelled}`).sent('to_guest');
    const body = seen.slice(seen.indexOf('\r\n\r\n') + 4);
    expect(body).toHaveLength(spelled.length);
    expect(body + Buffer.from(body, 'base64').toString('latin1')).toContain(PLACEHOLDER);
    expect(Buffer.from(body, 'base64').toString('latin1')).not.toContain(TOKEN);
  });
  it('connections add no patterns: a guest’s requests do not make the search more expensive', () => {
    expect(matcherOf(SECRETS, 'a.example')).toBe(matcherOf(SECRETS, 'a.example'));
    const before = matcherOf(SECRETS, 'a.example').patterns.length;
    for (let at = 0; at < 100; at += 1) {
      const pair = Buffer.from(`${at}${'A'.repeat(500)}:${PLACEHOLDER}`).toString('base64');
      const world = new World().guest(get(`Authorization: Basic ${pair}`));
      expect(world.filled).toEqual(['API_KEY']);
    }
    expect(matcherOf(SECRETS, 'a.example').patterns).toHaveLength(before);
  });
  it('replaces Basic credentials that another connection sent', () => {
    const sent = Buffer.from(`somebody:${TOKEN}`).toString('base64');
    const text = `${OK}Content-Length: ${sent.length}\r\n\r\n${sent}`;
    const known = Buffer.from(`somebody:${PLACEHOLDER}`).toString('base64');
    expect(new World().guest(get()).upstream(text).sent('to_guest').endsWith(known)).toBe(true);
  });
  it('does not delay complete lines', () => {
    const event = 'data: {"x":1}\n\n';
    const world = asked().upstream(`${OK}Content-Type: text/event-stream\r\n\r\n${event}`);
    expect(world.sent('to_guest')).toContain(event);
  });
  it('refuses a compressed answer, even to a request without a secret', () => {
    const body = gzipSync(TOKEN);
    const head = `${OK}Content-Encoding: gzip\r\nContent-Length: ${body.length}\r\n\r\n`;
    const world = asked().upstream(Buffer.concat([Buffer.from(head), body]));
    expect(world.reasons).toEqual(['response_encoded']);
    expect(world.sent('to_guest')).toMatch(/^HTTP\/1\.1 502 /);
    const plain = new World().guest(get()).upstream(Buffer.concat([Buffer.from(head), body]));
    expect(plain.reasons).toEqual(['response_encoded']);
    expect(plain.sent('to_guest')).toMatch(/^HTTP\/1\.1 502 /);
  });
  it('refuses a partial answer that was not requested', () => {
    const head = 'HTTP/1.1 206 Partial Content\r\nContent-Length: 9\r\n\r\n';
    const world = asked().upstream(`${head}${TOKEN.slice(0, 9)}`);
    expect(world.reasons).toEqual(['response_partial']);
    expect(world.sent('to_guest')).not.toContain(TOKEN.slice(0, 9));
  });
  it.each([
    ['response_malformed', 'SSH-2.0\r\n\r\n'],
    ['response_malformed', `${OK}Transfer-Encoding: gzip\r\n\r\n`],
    ['response_malformed', `${OK}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n`],
    ['response_malformed', `${OK}Content-Length: 1\r\nContent-Length: 2\r\n\r\n`],
    ['response_malformed', `${OK}X: y\r\n Content-Length: 2\r\n\r\n`],
    ['response_malformed', 'HTTP/1.1 101 Switching Protocols\r\n\r\n'],
    ['response_unasked', `${OK}Content-Length: 0\r\n\r\n${OK}Content-Length: 0\r\n\r\n`],
    ['response_too_long', `${OK}X: ${'y'.repeat(70_000)}`],
  ])('ends with %s: %j', (reason, text) => {
    const world = asked().upstream(text);
    expect(world.reasons).toEqual([reason]);
    expect(world.outputs.at(-1)?.kind).toBe('close');
  });
  it('interim answers, HEAD and 304 keep later answers in step', () => {
    const world = new World().guest(crlf('HEAD / HTTP/1.1', 'Host: a.example', BEARER) + get(BEARER) + get(BEARER));
    const interim = 'HTTP/1.1 103 Early Hints\r\n\r\n';
    const answers = `${OK}Content-Length: 9\r\n\r\n${interim}HTTP/1.1 304 Not Modified\r\n\r\n${OK}Content-Length: 2\r\n\r\nok`;
    expect(world.upstream(answers, 3).sent('to_guest')).toBe(answers);
    expect(world.reasons).toEqual([]);
  });
  it('answers 502 with the reason for an unreachable upstream', () => {
    const world = asked().end('certificate has expired');
    expect(world.sent('to_guest')).toMatch(/^HTTP\/1\.1 502 [\s\S]*certificate has expired/);
  });
});

describe('SecretExchange: another protocol', () => {
  const ask = get('Upgrade: websocket', 'Connection: Upgrade', BEARER);
  const agree = 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n';

  const frame = (first: number, text: string): string => `${String.fromCharCode(first, text.length)}${text}`;

  it('continues in both directions, and is still searched', () => {
    const world = new World().guest(ask);
    expect(world.exchange.isOpen).toBe(false);
    world.upstream(`${agree}${frame(0x81, TOKEN)}`, 3);
    expect(world.exchange.isOpen).toBe(true);
    world.guest(`frame ${PLACEHOLDER}`);
    expect(world.sent('to_guest')).toMatch(/^HTTP.1.1 101 /);
    expect(payloadOf(world.sent('to_guest').slice(agree.length))).toBe(PLACEHOLDER);
    expect(world.sent('to_upstream')).toContain(TOKEN);
    expect(world.sent('to_upstream').endsWith(`frame ${PLACEHOLDER}`)).toBe(true);
  });
  it.each([1, 2, 7, 1000])('replaces a secret across fragments, %i bytes at a time', (step) => {
    const [first, second] = [TOKEN.slice(0, 9), TOKEN.slice(9)];
    const frames = `${frame(0x01, `x ${first}`)}${frame(0x89, 'ping')}${frame(0x80, `${second} y`)}`;
    const world = new World().guest(ask).upstream(`${agree}${frames}${frame(0x82, '')}`, step);
    const seen = world.sent('to_guest').slice(agree.length);
    expect(payloadOf(seen)).toBe(`ping|x ${PLACEHOLDER} y|`);
    expect(world.reasons).toEqual([]);
  });
  it('holds no message back beyond its end, whatever its content', () => {
    const texts = ['{"x":1}', TOKEN.slice(0, 9), 'x'.repeat(120)];
    for (const text of texts) {
      const world = new World().guest(ask).upstream(agree);
      world.upstream(frame(0x81, text));
      expect(world.sent('to_guest')).toBe(`${agree}${frame(0x81, text)}`);
    }
  });
  it('passes a long message unchanged, in frames of each length', () => {
    for (const length of [125, 126, 65_535, 65_536, 100_000]) {
      const head = Buffer.alloc(10);
      head.writeUInt16BE(0x82_7f);
      head.writeBigUInt64BE(BigInt(length), 2);
      const whole = Buffer.concat([head, Buffer.alloc(length, 'z')]);
      const world = new World().guest(ask).upstream(agree).upstream(whole, 50_000);
      expect(payloadOf(world.sent('to_guest').slice(agree.length))).toBe('z'.repeat(length));
    }
  });
  it.each([
    ['reserved bits, as compression sets', frame(0xc1, 'x')],
    ['a masked frame', '\x81\x81\x00\x00\x00\x00x'],
    ['a continuation of nothing', frame(0x80, 'x')],
    ['a message within another', `${frame(0x01, 'x')}${frame(0x01, 'x')}`],
    ['a control frame in fragments', frame(0x09, 'x')],
    ['a long control frame', `\x89\x7e\x00\xff${'x'.repeat(255)}`],
    ['an unknown kind', frame(0x83, 'x')],
    ['a length over the maximum', `\x82\x7f${'\xff'.repeat(8)}`],
  ])('ends with %s', (_, bytes) => {
    const world = new World().guest(ask).upstream(`${agree}${bytes}`);
    expect(world.reasons).toEqual(['response_malformed']);
    expect(world.outputs.at(-1)?.kind).toBe('close');
  });
  it.each(['Upgrade: h2c\r\n', 'Upgrade: websocket, h2c\r\n', ''])(
    'refuses a switch to a protocol that was not requested: %j',
    (field) => {
      const world = new World().guest(ask);
      world.upstream(`HTTP/1.1 101 Switching Protocols\r\n${field}\r\nx`);
      expect(world.reasons).toEqual(['response_malformed']);
      expect(world.sent('to_guest')).toBe('');
    },
  );
  it('without an upgrade, HTTP continues and each request is checked', () => {
    const world = new World().guest(ask).upstream(`${OK}Content-Length: 0\r\n\r\n`);
    world.guest(crlf('GET / HTTP/1.1', 'Host: b.example', BEARER));
    expect(world.reasons).toEqual(['host_not_sni']);
  });
});

/** The payloads of all messages, separated by `|`; a control frame precedes the message that it interrupts. */
function payloadOf(frames: string): string {
  const bytes = Buffer.from(frames, 'latin1');
  const done: string[] = [];
  let message = '';
  for (let at = 0; at < bytes.length; ) {
    const [first = 0, short = 0] = bytes.subarray(at, at + 2);
    const length =
      short === 127 ? Number(bytes.readBigUInt64BE(at + 2)) : short === 126 ? bytes.readUInt16BE(at + 2) : short;
    const from = at + 2 + (short === 127 ? 8 : short === 126 ? 2 : 0);
    const payload = bytes.toString('latin1', from, from + length);
    at = from + length;
    if ((first & 0x08) !== 0) done.push(payload);
    else message += payload;
    if ((first & 0x88) === 0x80) {
      done.push(message);
      message = '';
    }
  }
  return done.join('|');
}

function unchunked(text: string): string {
  let out = '';
  for (let rest = text; ; ) {
    const size = Number.parseInt(rest, 16);
    const start = rest.indexOf('\r\n') + 2;
    if (size === 0) return out;
    out += rest.slice(start, start + size);
    rest = rest.slice(start + size + 2);
  }
}

describe('SecretExchange: fields that are set', () => {
  const set: EgressSecret = {
    name: 'X-Org',
    sets: 'X-Org',
    hosts: ['*.example'],
    places: [{ in: 'header', name: 'X-Org' }],
    placeholder: 'NV_SECRET_of_the_field_0123456789',
    value: new SecretValue('org-0123456789abcdef'),
  };
  const CHUNKED = crlf('POST /x HTTP/1.1', 'Host: a.example', 'Transfer-Encoding: chunked');

  it('refuses a trailer with such a field, in any spelling; others pass', () => {
    for (const name of ['X-Org', 'x_org']) {
      const world = new World([set]).guest(CHUNKED).guest(`0\r\n${name}: mine\r\n\r\n`);
      expect(world.reasons).toEqual(['secret_misplaced']);
      expect(world.sent('to_upstream')).not.toContain('mine');
    }
    const other = new World([set]).guest(CHUNKED).guest('0\r\nX-Sum: mine\r\n\r\n');
    expect([other.reasons, other.filled]).toEqual([[], ['X-Org']]);
    expect(other.sent('to_upstream')).toContain('X-Sum: mine');
  });
  it('are sent with an upgrade to WebSocket, and a guest’s own credential beside them passes', () => {
    const upgrade = ['Connection: Upgrade', 'Upgrade: websocket', 'X-Auth-Token: mine'];
    const world = new World([set]).guest(get(...upgrade));
    expect(world.sent('to_upstream')).toContain('X-Auth-Token: mine\r\n');
    expect(world.sent('to_upstream')).toContain('X-Org: org-0123456789abcdef\r\n\r\n');
  });
  it('their placeholder, which a guest may have from an answer, has no effect', () => {
    const world = new World([set]).guest(get(`Authorization: Bearer ${set.placeholder}`));
    expect(world.sent('to_upstream')).toContain(`Bearer ${set.placeholder}`);
    expect(world.unfilled).toEqual([]);
  });
  it('are removed from an answer, wherever it is cut', () => {
    const body = 'you are org-0123456789abcdef!';
    for (const step of [1, 7, 1000]) {
      const world = new World([set]).guest(get());
      world.upstream(`${OK}Content-Length: ${body.length}\r\n\r\n${body}`, step);
      expect(world.sent('to_guest')).toContain('you are NV_SECRET_');
      expect(world.sent('to_guest')).not.toContain('org-0123');
    }
  });
  it('build the search of all names below a pattern only once', () => {
    const all = [set];
    expect(matcherOf(all, 'a.example')).toBe(matcherOf(all, 'b.c.example'));
  });
});
