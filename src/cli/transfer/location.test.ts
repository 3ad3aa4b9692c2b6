import { describe, expect, it } from 'vitest';
import { parseLocation } from './location.ts';

describe('parseLocation', () => {
  it.each([
    ['7ds14n1k:/tmp/x', { kind: 'guest', id: '7ds14n1k', path: '/tmp/x' }],
    ['a:b:c', { kind: 'guest', id: 'a', path: 'b:c' }],
    ['a:', { kind: 'guest', id: 'a', path: '~' }],
    ['-', { kind: 'stream' }],
    ['./-', { kind: 'here', path: './-' }],
    ['./a:b', { kind: 'here', path: './a:b' }],
    ['/tmp/a:b', { kind: 'here', path: '/tmp/a:b' }],
    ['A:b', { kind: 'here', path: 'A:b' }],
    ['aaaaaaaaaaaaaaaaaaaaa:b', { kind: 'here', path: 'aaaaaaaaaaaaaaaaaaaaa:b' }],
    ['file', { kind: 'here', path: 'file' }],
  ])('%s', (text, location) => expect(parseLocation(text)).toEqual(location));

  it('rejects an empty path', () => {
    expect(() => parseLocation('')).toThrow(expect.objectContaining({ code: 'usage' }));
  });
});
