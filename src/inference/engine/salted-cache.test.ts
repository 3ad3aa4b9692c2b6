import { expect, it } from 'vitest';
import { SaltedCache } from './salted-cache.ts';

it('SaltedCache: creates a value again for another salt, and keeps the most recently used ones', () => {
  const made: string[] = [];
  const cache = new SaltedCache(2, (text) => made.push(text));
  const get = (salt: string, text: string): boolean => {
    const before = made.length;
    cache.get(salt, text);
    return made.length > before;
  };
  expect([get('a', 'x'), get('a', 'x')]).toEqual([true, false]);
  expect([get('b', 'x'), get('b', 'x'), get('a', 'x')]).toEqual([true, false, false]);
  // The cache is full, and "b" was used before "a".
  expect([get('a', 'y'), get('a', 'x'), get('b', 'x')]).toEqual([true, false, true]);
  // No text can look like another salt and text.
  const other = new SaltedCache<object>(9, () => ({}));
  expect(other.get('a', '","b')).not.toBe(other.get('a","', 'b'));
});

it('SaltedCache: keeps nothing of a text whose value can’t be created', () => {
  let fails = true;
  const cache = new SaltedCache(2, (text) => {
    if (fails) throw new Error(text);
    return text;
  });
  expect(() => cache.get('a', 'x')).toThrow('x');
  fails = false;
  expect(cache.get('a', 'x')).toBe('x');
});
