import { describe, expect, it } from 'vitest';
import { compile, matches, matchesStars } from './glob.ts';

const hits = (pattern: string, name: string, deep = true): boolean => {
  const compiled = compile(pattern, deep);
  return compiled !== null && matches(compiled, name);
};

describe('matches', () => {
  it.each<[string, string, boolean]>([
    ['*.log', 'a.log', true],
    ['*.log', 'd/a.log', false],
    ['**/*.log', 'a.log', true],
    ['**/*.log', 'd/e/a.log', true],
    ['**/b', 'ab', false],
    ['a/**/b', 'a/b', true],
    ['a/**/b', 'a/x/y/b', true],
    ['a/**', 'a/x/y', true],
    ['**', 'anything/x', true],
    ['a?c', 'abc', true],
    ['a?c', 'a/c', false],
    ['[a-c]x', 'bx', true],
    ['[^a-c]x', 'bx', false],
    ['[]]', ']', true],
    ['a\\*', 'a*', true],
    ['a\\*', 'ab', false],
    ['a+(b)', 'a+(b)', true],
    ['', 'a', false],
  ])('pattern %s, path %s: %s', (pattern, name, expected) => {
    expect(hits(pattern, name)).toBe(expected);
  });

  it('patterns that would make a regular expression run for hours are quick', () => {
    const start = performance.now();
    expect(hits(`${'**/'.repeat(300)}x`, `${'a/'.repeat(2000)}b`)).toBe(false);
    expect(hits('*a'.repeat(300), 'a'.repeat(4000))).toBe(true);
    expect(performance.now() - start).toBeLessThan(5_000);
  });

  it('a class or an escape without an end is no pattern', () => {
    expect([compile('[a', true), compile('a\\', true)]).toEqual([null, null]);
  });
});

describe('matchesStars', () => {
  it.each([
    ['*', '', true],
    ['*', 'a/b:c', true],
    ['a', 'a', true],
    ['a', 'ab', false],
    ['a*', 'b', false],
    ['*a', 'ba', true],
    ['a*a', 'a', false],
    ['a*b*c', 'a/x/b/y/c', true],
    ['a*b*c', 'a/c/b', false],
    ['a.c', 'abc', false],
  ])('pattern %s, name %s: %s', (pattern, name, expected) => {
    expect(matchesStars(pattern, name)).toBe(expected);
  });
});
