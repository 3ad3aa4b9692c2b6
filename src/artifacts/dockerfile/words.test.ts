// biome-ignore-all lint/suspicious/noTemplateCurlyInString: variables of Dockerfiles
import { expect, it } from 'vitest';
import { expandText, expandWord, expandWords, jsonWords, type Scope, splitWords } from './words.ts';

const scope: Scope = { line: 3, escapeMark: '\\', variables: { A: 'a', S: 'x y', E: '' } };

it.each([
  ['$A${A}', 'aa'],
  ['\\$A', '$A'],
  ["'$A'", '$A'],
  ['"$A \\"q\\" \\n"', 'a "q" \\n'],
  ['${N:-d}${N-d}${E:-d}${E-d}', 'ddd'],
  ['${A:+y}${E:+y}${E+y}${N+y}', 'yy'],
  ['${N:-${A:-b}"c d"}', 'ac d'],
  ['${A:?no}', 'a'],
  ['$N', ''],
  ['a$', 'a$'],
  ['$constructor', ''],
])('expandWord: %s is %j', (text, expected) => {
  expect(expandWord(text, scope)).toBe(expected);
});

it.each([
  ['${A', 'is not supported'],
  ['${A#x}', 'is not supported'],
  ['${N:?why}', 'line 3: N is not set: why'],
  ["'a", 'has no end'],
  ['"a', 'has no end'],
  ['${N:-a', 'has no end'],
  [`${'${N:-'.repeat(99)}x`, 'nested too deeply'],
])('expandWord: refuses %s', (text, message) => {
  expect(() => expandWord(text, scope)).toThrow(message);
});

it('expandWord: bounds a value that doubles', () => {
  const variables = { A: 'x'.repeat(60_000) };
  expect(() => expandWord('$A$A', { ...scope, variables })).toThrow('too long');
});

it('expandText, expandWords: bound the total of many expanded words', () => {
  const long = { ...scope, variables: { A: 'x'.repeat(60_000) } };
  expect(() => expandText('$A'.repeat(100_000), long)).toThrow('line 3: a file is too long');
  expect(() => expandWords('x$A '.repeat(100_000), long)).toThrow('the words are too long');
});

it('splitWords: does not take time quadratic in the length', () => {
  const start = performance.now();
  expect(splitWords('{'.repeat(1 << 20), '\\')).toHaveLength(1);
  expect(performance.now() - start).toBeLessThan(5_000);
});

it('expandWords: splits at spaces, but not within quotes and escapes', () => {
  expect(expandWords('a "b c" d\\ e $A', scope)).toEqual(['a', 'b c', 'd e', 'a']);
});

it('jsonWords: accepts only a list of texts', () => {
  expect(jsonWords('["a", "b c"]')).toEqual(['a', 'b c']);
  for (const text of ['[1]', "['a']", 'a', '["a"', '{}']) expect(jsonWords(text)).toBeNull();
});
