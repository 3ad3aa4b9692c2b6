import { describe, expect, it } from 'vitest';
import { endpointOf, parseTarget } from './address.ts';

describe('endpointOf', () => {
  it.each([
    ['http://127.0.0.1:8000', '/v1'],
    ['http://127.0.0.1:8000/', '/v1'],
    ['http://127.0.0.1:8000/v1', '/v1'],
    ['http://127.0.0.1:8000/engines/v1', '/engines/v1'],
    ['http://127.0.0.1:8000/api', '/api/v1'],
    ['https://example.test/v1beta/openai/', '/v1beta/openai'],
  ])('%s has the prefix %s', (baseUrl, prefix) => {
    expect(endpointOf({ name: 'x', baseUrl }).prefix).toBe(prefix);
  });
  it('knows default ports and IPv6', () => {
    expect(endpointOf({ name: 'x', baseUrl: 'https://[::1]' })).toMatchObject({ secure: true, host: '::1', port: 443 });
  });
});

describe('parseTarget', () => {
  it('reads URLs, host:port and unix sockets', () => {
    expect(parseTarget('localhost:11434', 'k')).toEqual({
      name: 'localhost:11434',
      baseUrl: 'http://localhost:11434',
      apiKey: 'k',
    });
    expect(parseTarget('unix:/run/llama.sock')).toEqual({
      name: 'unix:/run/llama.sock',
      socketPath: '/run/llama.sock',
    });
    const prefixed = parseTarget('unix:/run/docker.sock:/engines/v1');
    expect(endpointOf(prefixed)).toMatchObject({ socketPath: '/run/docker.sock', prefix: '/engines/v1' });
  });
  it.each(['', 'ftp://a', 'http://', 'unix:relative', 'http://u:p@a/', 'http://a/?x=1', 'nonsense'])(
    'refuses %j',
    (text) => {
      expect(() => parseTarget(text)).toThrowError(
        expect.objectContaining({ code: 'upstream_invalid', remedy: expect.any(String) }),
      );
    },
  );
});
