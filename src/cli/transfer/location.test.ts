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
    ['My-box.2:b', { kind: 'guest', id: 'My-box.2', path: 'b' }],
    [`${'a'.repeat(64)}:b`, { kind: 'here', path: `${'a'.repeat(64)}:b` }],
    ['file', { kind: 'here', path: 'file' }],
  ])('%s', (text, location) => expect(parseLocation(text)).toEqual(location));

  it('rejects an empty path', () => {
    expect(() => parseLocation('')).toThrow(expect.objectContaining({ code: 'usage' }));
  });
});
