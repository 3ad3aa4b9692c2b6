import { expect, it } from 'vitest';
import { hasMoreValues } from './json-values.ts';

it.each([
  ['[1,2,3]', 4],
  ['{"a":1,"b":2}', 3],
  ['[[[[]]]]', 5],
  ['"a,b[{"', 1],
  ['{"a\\",[":["\\\\",1]}', 4],
  ['', 1],
])('hasMoreValues: %s has at most %d', (text, values) => {
  const json = Buffer.from(text);
  expect([hasMoreValues(json, values), hasMoreValues(json, values - 1)]).toEqual([false, true]);
});

it('hasMoreValues: reads no further than needed', () => {
  const json = Buffer.from(`[${'0,'.repeat(100)}`);
  const read: number[] = [];
  const watched = new Proxy(json, {
    get: (target, key) => {
      if (/^\d+$/.test(String(key))) read.push(Number(key));
      return Reflect.get(target, key);
    },
  });
  expect(hasMoreValues(watched, 10)).toBe(true);
  expect(read).toHaveLength(19);
});
