import { describe, expect, it } from 'vitest';
import type { HeadProblem } from './head.ts';
import { type HttpPiece, HttpRequestReader } from './requests.ts';

const read = (text: string): HttpPiece[] => new HttpRequestReader().push(Buffer.from(text, 'latin1'));
const head = (...lines: string[]): string => `${lines.join('\r\n')}\r\n\r\n`;

/** The only head of a text, or why it was refused. */
function only(text: string) {
  const [first] = read(text);
  if (first?.kind === 'head') return first.head;
  return first?.kind === 'refused' ? first.reason : first;
}
function passed(pieces: readonly HttpPiece[]): string {
  return pieces
    .map((piece) => {
      if (piece.kind === 'head') return piece.head.forward;
      return piece.kind === 'body' ? Buffer.from(piece.bytes).toString('latin1') : '';
    })
    .join('');
}

describe('parseHead', () => {
  it('reads method, host, port and path', () => {
    expect(only(head('GET /a?b=c HTTP/1.1', 'Host: API.example.com:8080', 'X:  y '))).toEqual({
      method: 'GET',
      host: { kind: 'name', name: 'api.example.com' },
      port: 8080,
      path: '/a?b=c',
      framing: { kind: 'none' },
      version: 'HTTP/1.1',
      fields: [
        { name: 'Host', value: 'API.example.com:8080' },
        { name: 'X', value: 'y' },
      ],
      upgrade: undefined,
      forward: 'GET /a?b=c HTTP/1.1\r\nHost: API.example.com:8080\r\nX: y\r\n\r\n',
    });
    expect(only(head('GET / HTTP/1.0', 'host: [2001:db8::1]'))).toMatchObject({
      host: { kind: 'address', address: '2001:db8::1' },
      port: 80,
    });
    expect(only(head('TRACE / HTTP/1.1', 'Host: a.example', 'Max-Forwards: 0'))).toMatchObject({ method: 'TRACE' });
    expect(only(head('OPTIONS * HTTP/1.1', 'Host: a.example'))).toMatchObject({ path: '*' });
  });
  it('passes on the absolute form as origin form', () => {
    for (const [target, path] of [
      ['http://a.example/x?y', '/x?y'],
      ['HTTP://A.example:80', '/'],
      ['http://a.example?y', '/?y'],
    ]) {
      const read = only(head(`GET ${target} HTTP/1.1`, 'Host: a.example'));
      expect(read).toMatchObject({ path });
      expect(read).toMatchObject({ forward: `GET ${path} HTTP/1.1\r\nHost: a.example\r\n\r\n` });
    }
  });
  it('drops an offer of h2c', () => {
    const text = head(
      'GET / HTTP/1.1',
      'Host: a.example',
      'Connection: Upgrade, HTTP2-Settings, close',
      'Upgrade: h2c',
      'HTTP2-Settings: AAEAAEAA',
    );
    expect(only(text)).toMatchObject({ forward: 'GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n' });
  });

  const HOST = 'Host: a.example';
  const cases: [HeadProblem, string][] = [
    ['request_line', head('GET  / HTTP/1.1', HOST)],
    ['request_line', head('GET / x HTTP/1.1', HOST)],
    ['request_line', head('GET\t/ HTTP/1.1', HOST)],
    ['request_line', head('G(T / HTTP/1.1', HOST)],
    ['request_line', head('', 'GET / HTTP/1.1', HOST)],
    ['request_line', head('GET /a\\b HTTP/1.1', HOST)],
    ['request_line', head('GET /#a HTTP/1.1', HOST)],
    ['request_line', head('GET /\x7f HTTP/1.1', HOST)],
    ['request_line', head('GET /\xe9 HTTP/1.1', HOST)],
    ['request_line', head('GET * HTTP/1.1', HOST)],
    ['request_line', head('GET https://a.example/ HTTP/1.1', HOST)],
    ['request_line', head('GET a.example:80 HTTP/1.1', HOST)],
    ['request_line', head(`${'A'.repeat(33)} / HTTP/1.1`, HOST)],
    ['version', head('GET / HTTP/1.2', HOST)],
    ['version', head('GET / http/1.1', HOST)],
    ['version', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    ['field', head('GET / HTTP/1.1', HOST, 'X : y')],
    ['field', head('GET / HTTP/1.1', HOST, 'X')],
    ['field', head('GET / HTTP/1.1', HOST, ': y')],
    ['field', head('GET / HTTP/1.1', HOST, 'X: a\0b')],
    ['field', head('GET / HTTP/1.1', HOST, 'Content_Length: 5')],
    ['fold', head('GET / HTTP/1.1', HOST, ' folded')],
    ['fold', head('GET / HTTP/1.1', '\tHost: b', HOST)],
    ['host_missing', head('GET / HTTP/1.1', 'X: y')],
    ['host_missing', head('GET http://a.example/ HTTP/1.1')],
    ['host_repeated', head('GET / HTTP/1.1', HOST, 'HOST: a.example')],
    ['host_malformed', head('GET / HTTP/1.1', 'Host:')],
    ['host_malformed', head('GET / HTTP/1.1', 'Host: a.example, b.example')],
    ['host_malformed', head('GET / HTTP/1.1', 'Host: a.example:0')],
    ['host_malformed', head('GET / HTTP/1.1', 'Host: a.example:65536')],
    ['host_malformed', head('GET / HTTP/1.1', 'Host: a.example:')],
    ['host_malformed', head('GET / HTTP/1.1', 'Host: a@b.example')],
    ['host_malformed', head('GET / HTTP/1.1', 'Host: a.example.')],
    ['host_malformed', head('GET / HTTP/1.1', 'Host: 2852039166')],
    ['host_malformed', head('GET / HTTP/1.1', 'Host: 0xa9fea9fe')],
    ['host_malformed', head('GET / HTTP/1.1', 'Host: 0251.0376.0251.0376')],
    ['host_malformed', head('GET / HTTP/1.1', 'Host: 169.254.43518')],
    ['host_malformed', head('GET http://a@b.example/ HTTP/1.1', 'Host: b.example')],
    ['host_mismatch', head('GET http://b.example/ HTTP/1.1', HOST)],
    ['host_mismatch', head('GET http://a.example:81/ HTTP/1.1', HOST)],
    ['length', head('POST / HTTP/1.1', HOST, 'Content-Length: +5')],
    ['length', head('POST / HTTP/1.1', HOST, 'Content-Length: 5, 5')],
    ['length', head('POST / HTTP/1.1', HOST, 'Content-Length: 0x5')],
    ['length', head('POST / HTTP/1.1', HOST, 'Content-Length:')],
    ['framing', head('POST / HTTP/1.1', HOST, 'Content-Length: 5', 'Content-Length: 5')],
    ['framing', head('POST / HTTP/1.1', HOST, 'Content-Length: 5', 'Transfer-Encoding: chunked')],
    ['framing', head('POST / HTTP/1.1', HOST, 'Transfer-Encoding: chunked', 'Content-Length: 5')],
    ['framing', head('POST / HTTP/1.1', HOST, 'Transfer-Encoding: gzip, chunked')],
    ['framing', head('POST / HTTP/1.1', HOST, 'Transfer-Encoding: xchunked')],
    ['framing', head('POST / HTTP/1.1', HOST, 'Transfer-Encoding: \x0bchunked')],
    ['framing', head('POST / HTTP/1.0', HOST, 'Transfer-Encoding: chunked')],
    ['connect', head('CONNECT a.example:443 HTTP/1.1', HOST)],
    ['upgrade', head('GET / HTTP/1.1', HOST, 'Connection: Upgrade', 'Upgrade: websocket')],
    ['line_end', 'GET / HTTP/1.1\nHost: a.example\n\n'],
    ['line_end', 'GET / HTTP/1.1\r\nHost: a.example\n\r\n'],
    ['line_end', 'GET / HTTP/1.1\r\nX: a\rb\r\nHost: a.example\r\n\r\n'],
    ['line_end', 'GET / HTTP/1.1\r\nHost: a.example\r\n\r\r\n'],
    ['too_long', `GET /${'a'.repeat(17_000)}`],
    ['too_long', head('GET / HTTP/1.1', HOST, ...Array<string>(100).fill('x: y'))],
  ];
  it.each(cases)('refuses with %s: %j', (reason, text) => {
    // A control character before a value makes the field malformed, whatever its name.
    expect(only(text)).toBe(text.includes('\x0b') ? 'field' : reason);
  });
});

describe('HttpRequestReader', () => {
  const GET = head('GET / HTTP/1.1', 'Host: a.example');
  const kinds = (pieces: readonly HttpPiece[]) => pieces.map((piece) => piece.kind);

  it('judges every request of a connection, framed by length', () => {
    const post = `${head('POST / HTTP/1.1', 'Host: a.example', 'Content-Length: 40')}`;
    const body = 'GET / HTTP/1.1\r\nHost: hidden.example\r\n\r\n'.slice(0, 40);
    const second = head('GET / HTTP/1.1', 'Host: b.example');
    const pieces = read(post + body + second + GET);
    expect(kinds(pieces)).toEqual(['head', 'body', 'end', 'head', 'end', 'head', 'end']);
    expect(pieces[3]).toMatchObject({ head: { host: { name: 'b.example' } } });
  });
  it('judges every request of a connection, framed by chunks', () => {
    const chunked = `${head('POST / HTTP/1.1', 'Host: a.example', 'Transfer-Encoding: chunked')}`;
    const body = '5\r\nhello\r\n00A\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n';
    const pieces = read(chunked + body + GET);
    expect(kinds(pieces).filter((kind) => kind !== 'body')).toEqual(['head', 'end', 'head', 'end']);
    expect(passed(pieces)).toBe(chunked + body + GET);
  });
  it.each([
    ['chunk', '5;a=b\r\nhello\r\n0\r\n\r\n'],
    ['chunk', '0x5\r\nhello\r\n'],
    ['chunk', ' 5\r\nhello\r\n'],
    ['chunk', '\r\n'],
    ['chunk', '-1\r\n'],
    ['chunk', '123456789\r\n'],
    ['chunk', '5\r\nhelloX\r\n'],
    ['chunk', '5\r\nhelloXXX'],
    ['line_end', '5\nhello\n'],
    ['chunk', '0\r\nContent-Length: 5\r\n\r\n'],
    ['chunk', '0\r\nX-HTTP-Method-Override: DELETE\r\n\r\n'],
    ['chunk', '0\r\nx_copy_from: /other\r\n\r\n'],
    ['chunk', '0\r\nHost: b\r\n\r\n'],
    ['field', '0\r\nX\r\n\r\n'],
    ['chunk', `0\r\nX: ${'y'.repeat(5000)}\r\n\r\n`],
  ])('refuses with %s the chunks %j', (reason, body) => {
    const chunked = head('POST / HTTP/1.1', 'Host: a.example', 'Transfer-Encoding: chunked');
    expect(read(chunked + body).at(-1)).toEqual({ kind: 'refused', reason });
  });
  it('passes nothing on after a refusal', () => {
    const reader = new HttpRequestReader();
    reader.push(Buffer.from('BAD\r\n\r\n'));
    expect(reader.push(Buffer.from(GET))).toEqual([]);
  });
  it('reports whether a head is incomplete', () => {
    const reader = new HttpRequestReader();
    expect([reader.isInHead, reader.isAtStart]).toEqual([false, true]);
    reader.push(Buffer.from('G'));
    expect([reader.isInHead, reader.isAtStart]).toEqual([true, false]);
    reader.push(Buffer.from(GET.slice(1)));
    expect([reader.isInHead, reader.isAtStart]).toEqual([false, true]);
  });
});
