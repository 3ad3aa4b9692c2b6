import { describe, expect, it } from 'vitest';
import { answerHeaders, countOf, hintLinks, reasonPhrase, requestHeaders, trailers } from './headers.ts';

const RULES = { host: null, upgrade: null, isSecret: () => false };

describe('requestHeaders', () => {
  it('keep what is for the program, in order', () => {
    const raw = ['Host', 'a', 'Cookie', 'x=1', 'cookie', 'y=2', 'X-Access-Token', 'own'];
    expect(requestHeaders(raw, RULES)).toEqual(raw);
  });

  it('drop connection framing, headers that Connection names, and our own', () => {
    const raw = [
      ...['Connection', 'keep-alive, X-Hop, host', 'Keep-Alive', '5', 'X-Hop', '1'],
      ...['Transfer-Encoding', 'chunked', 'Content-Length', '3', 'TE', 'trailers', 'Trailer', 'x'],
      ...['Upgrade', 'h2c', 'HTTP2-Settings', 'x', 'Expect', '100-continue'],
      ...['E2b-Sandbox-Id', 'x', 'e2b-sandbox-port', '1', 'E2B-Traffic-Access-Token', 't'],
      ...['Host', 'a'],
    ];
    expect(requestHeaders(raw, RULES)).toEqual(['Host', 'a']);
  });

  it('drop claims about a request’s origin, and tokens that are secrets', () => {
    const raw = ['Host', 'a', 'X-Forwarded-For', '1.2.3.4', 'Forwarded', 'x', 'X-Access-Token', 's'];
    const isSecret = (name: string, value: string) => name === 'x-access-token' && value === 's';
    expect(requestHeaders(raw, { ...RULES, isSecret })).toEqual(['Host', 'a']);
  });

  it('mask the host, and pass its original value', () => {
    const rules = { ...RULES, host: 'localhost:3000', upgrade: 'websocket' };
    expect(requestHeaders(['Host', '3000-x.example.org'], rules)).toEqual([
      ...['Host', 'localhost:3000', 'X-Forwarded-Host', '3000-x.example.org'],
      ...['Connection', 'Upgrade', 'Upgrade', 'websocket'],
    ]);
  });
});

describe('answerHeaders', () => {
  it('drop the framing of the program’s connection', () => {
    const raw = ['Connection', 'close, X-A', 'x-a', '1', 'Transfer-Encoding', 'chunked', 'B', '2'];
    expect(answerHeaders(raw, 200)).toEqual(['B', '2']);
  });

  it('keep a length only if it can be correct', () => {
    expect(answerHeaders(['Content-Length', '5'], 200)).toEqual(['Content-Length', '5']);
    expect(answerHeaders(['Content-Length', '5'], 204)).toEqual([]);
    expect(answerHeaders(['Content-Length', '5, 5'], 200)).toEqual([]);
    expect(answerHeaders(['Connection', 'content-length', 'Content-Length', '5'], 200)).toEqual([
      ...['Content-Length', '5'],
    ]);
  });
});

it('trailers are never headers of a message', () => {
  expect(trailers(['X-Sum', '1', 'Content-Length', '1', 'Set-Cookie', 'a', 'Host', 'b'])).toEqual([['X-Sum', '1']]);
});

it('a reason phrase is printable ASCII, or the usual one', () => {
  expect(reasonPhrase('Fine')).toBe('Fine');
  expect(reasonPhrase('b\u00e4d')).toBeUndefined();
  expect(reasonPhrase('')).toBeUndefined();
});

describe('hintLinks', () => {
  it('keeps each valid link', () => {
    const links = ['</a.css>; rel=preload; as=style', '</b>;rel="next"; crossorigin', '<c>'];
    expect(hintLinks(links.join(', '))).toEqual(links);
  });

  it.each([
    // Each of these would keep Node's own check busy for years.
    `<x>${';a=b'.repeat(64)}"`,
    `<x>${'; a=b=c'.repeat(64)} x`,
    `<x>${';a="b"'.repeat(64)};`,
    'no link',
    '<x> rel=preload',
    '',
  ])('drops %j', (link) => expect(hintLinks(link)).toEqual([]));
});

it('countOf ignores case', () => expect(countOf(['Host', 'a', 'HOST', 'b'], 'host')).toBe(2));
