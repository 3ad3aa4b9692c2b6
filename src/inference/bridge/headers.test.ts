import { describe, expect, it } from 'vitest';
import { checkFraming, requestHeaders, responseHeaders } from './headers.ts';

describe('checkFraming', () => {
  it.each([
    ['two lengths', ['Content-Length', '5', 'content-length', '5']],
    ['length and encoding', ['Content-Length', '5', 'Transfer-Encoding', 'chunked']],
    ['a list of lengths', ['Content-Length', '5, 5']],
    ['a signed length', ['Content-Length', '+5']],
    ['a hexadecimal length', ['Content-Length', '0x5']],
    ['a length beyond 2^53', ['Content-Length', '9007199254740993']],
    ['another encoding', ['Transfer-Encoding', 'gzip, chunked']],
    ['an obfuscated encoding', ['Transfer-Encoding', '\u000bchunked']],
    ['two encodings', ['Transfer-Encoding', 'chunked', 'Transfer-Encoding', 'chunked']],
    ['identity', ['Transfer-Encoding', 'identity']],
    ['two hosts', ['Host', 'a', 'Host', 'b']],
  ])('refuses %s', (_, headers) => {
    expect(checkFraming(headers)).toMatchObject({ ok: false, refusal: { code: 'bad_framing' } });
  });
  it.each([
    ['no body', ['Host', 'a']],
    ['a length', ['Host', 'a', 'Content-Length', '5']],
    ['chunks', ['Host', 'a', 'transfer-encoding', 'Chunked']],
  ])('accepts %s', (_, headers) => {
    expect(checkFraming(headers).ok).toBe(true);
  });
});

describe('requestHeaders', () => {
  it('passes nothing that identifies, authorizes or routes', () => {
    const received = {
      accept: 'text/event-stream',
      traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
      authorization: 'Bearer guest',
      'x-api-key': 'guest',
      'api-key': 'guest',
      cookie: 'a=b',
      'proxy-authorization': 'Basic x',
      'openai-organization': 'org',
      'x-forwarded-for': '10.0.0.1',
      'x-neurovisor-sandbox': 'other',
      host: 'metadata.google.internal',
      connection: 'close',
      'content-type': 'text/plain',
    };
    expect(requestHeaders(received, 'a')).toEqual({ accept: 'text/event-stream', traceparent: received.traceparent });
  });
});

describe('requestHeaders: betas of Anthropic’s API', () => {
  const of = (header: string, betas?: readonly string[]) =>
    requestHeaders({ 'anthropic-beta': header }, 'a', { api: 'anthropic', ...(betas === undefined ? {} : { betas }) })[
      'anthropic-beta'
    ];
  const harmless = 'interleaved-thinking-2025-05-14';
  it('pass if they are harmless, or listed by the host', () => {
    expect(of(`context-1m-2025-08-07,${harmless} , ${harmless}`)).toBe(harmless);
    expect(of('context-1m-2025-08-07, fast-mode-2026-02-01')).toBeUndefined();
    expect(of(`fast-mode-2026-02-01,${harmless}`, ['fast-mode-2026-02-01'])).toBe(`fast-mode-2026-02-01,${harmless}`);
    expect(requestHeaders({ 'anthropic-beta': harmless }, 'a')).toEqual({});
  });
});

describe('requestHeaders: clients of OpenAI', () => {
  it('passes the beta and request id, and derives an idempotency key per sandbox', () => {
    const received = { 'openai-beta': 'assistants=v2', 'x-client-request-id': 'r-1', 'idempotency-key': 'k' };
    const of = (id: string) => requestHeaders(received, id);
    expect(of('a')).toEqual({ ...received, 'idempotency-key': expect.stringMatching(/^[0-9a-f]{64}$/) });
    expect(of('a')).toEqual(of('a'));
    expect(of('a')['idempotency-key']).not.toBe(of('b')['idempotency-key']);
  });
  it('derives a request id per sandbox that is still readable', () => {
    const of = (id: string, value = 'r-1') => requestHeaders({ 'x-request-id': value }, id)['x-request-id'] ?? '';
    expect(of('a')).toMatch(/^r-1-[0-9a-f]{16}$/);
    expect(of('a')).toBe(of('a'));
    expect(of('a')).not.toBe(of('b'));
    // Nor can a sandbox forge the id that another one gets.
    expect(of('b', of('a'))).not.toBe(of('a'));
  });
  it('drops values that are long or not visible ASCII', () => {
    for (const value of ['a\r\nb', 'ä', 'x'.repeat(1025)]) {
      const names = ['openai-beta', 'x-client-request-id', 'idempotency-key'];
      const received = Object.fromEntries(names.map((name) => [name, value]));
      expect(requestHeaders(received, 'a')).toEqual({});
    }
  });
});

describe('responseHeaders', () => {
  it('passes the content, retry and rate limit headers only', () => {
    const received = {
      'content-type': 'application/json',
      'content-length': '2',
      'retry-after': '3',
      'set-cookie': ['a=b'],
      server: 'uvicorn',
      location: 'http://169.254.169.254/',
      'transfer-encoding': 'chunked',
      'openai-organization': 'org-of-the-host',
      'x-ratelimit-remaining-tokens': '5',
      'x-ratelimit-a_b': 'another name',
      'retry-after-ms': '2500',
      // The server's time reveals what it had in its cache.
      'openai-processing-ms': '12',
    };
    expect(responseHeaders(received)).toEqual({
      'content-type': 'application/json',
      'content-length': '2',
      'retry-after': '3',
      'retry-after-ms': '2500',
      'x-ratelimit-remaining-tokens': '5',
    });
  });
  it('passes at most 16 rate limits', () => {
    const names = Array.from({ length: 26 }, (_, n) => `x-ratelimit-${String.fromCharCode(97 + n)}`);
    const received = Object.fromEntries(names.map((name) => [name, '1']));
    expect(Object.keys(responseHeaders(received))).toHaveLength(16);
  });
  it('drops values that could end a line, and inherited members', () => {
    expect(responseHeaders({ 'retry-after': 'a\r\nb' })).toEqual({});
    expect(responseHeaders(Object.create({ 'retry-after': '1' }))).toEqual({});
  });
});
