import { describe, expect, it } from 'vitest';
import { DockerIgnore } from './docker-ignore.ts';

/** Judges from the top, as a walk does. */
function ignores(rules: string, path: string): boolean {
  const ignore = DockerIgnore.parse(rules);
  const parts = path.split('/');
  let verdict = null;
  for (const [index] of parts.entries()) {
    verdict = ignore.judge(parts.slice(0, index + 1).join('/'), verdict);
  }
  return verdict?.ignored ?? false;
}

describe('DockerIgnore', () => {
  it.each<[string, string, boolean]>([
    ['a', 'a/b/c', true],
    ['/a', 'a', true],
    ['a', 'x/a', false],
    ['**/a', 'x/a/y', true],
    ['a\n!a/keep', 'a/keep', false],
    ['a\n!a/keep', 'a/other', true],
    ['*\n!*.md\nREADME.md', 'README.md', true],
    ['*\n!*.md\nREADME.md', 'x.md', false],
    ['# a\n\n  b  ', 'b', true],
    ['#a', '#a', false],
    ['a/', 'a', true],
    ['./a/../b', 'b', true],
    ['.', 'a', false],
  ])('%j of %s: %s', (rules, path, expected) => {
    expect(ignores(rules, path)).toBe(expected);
  });

  it('names an invalid line', () => {
    expect(() => DockerIgnore.parse('a\n[b')).toThrow('line 2');
    expect(() => DockerIgnore.parse('a\n!')).toThrow('line 2');
    expect(() => DockerIgnore.parse('a\n'.repeat(1001))).toThrow('too many');
  });
});
