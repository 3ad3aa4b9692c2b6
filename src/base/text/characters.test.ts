import { expect, it } from 'vitest';
import { isAtMost } from './characters.ts';

it('isAtMost: counts characters, not UTF-16 units', () => {
  expect(isAtMost('', 0)).toBe(true);
  expect(isAtMost('ab', 2)).toBe(true);
  expect(isAtMost('abc', 2)).toBe(false);
  expect(isAtMost('𝖆𝖇', 2)).toBe(true);
  expect(isAtMost('𝖆𝖇c', 2)).toBe(false);
});
