import { expect, it } from 'vitest';
import { JsonCount } from './json-values.ts';

const ANY = { valuesMax: Number.POSITIVE_INFINITY, namesMax: Number.POSITIVE_INFINITY };

it.each([
  ['[1,2,3]', 4, 0],
  ['{"a":1,"b":2}', 3, 2],
  ['[[[[]]]]', 5, 0],
  ['"a,b[{:"', 1, 0],
  ['{"a\\",[":["\\\\",1]}', 4, 1],
  ['{"a":{"b:\\"":":"}}', 3, 2],
])('JsonCount: %s has %d values and %d names, in whatever parts it arrives', (text, values, names) => {
  const json = Buffer.from(text);
  const counted = (limits: Partial<typeof ANY>, parts: readonly Buffer[]): (string | null)[] => {
    const count = new JsonCount({ ...ANY, ...limits });
    return parts.map((part) => count.add(part)).slice(-1);
  };
  for (const parts of [[json], Array.from(json, (byte) => Buffer.of(byte))]) {
    expect(counted({ valuesMax: values, namesMax: names }, parts)).toEqual([null]);
    expect(counted({ valuesMax: values - 1 }, parts)).toEqual([`${values - 1} JSON values`]);
    if (names > 0) expect(counted({ namesMax: names - 1 }, parts)).toEqual([`${names - 1} JSON names`]);
  }
});

it('JsonCount: reads no further than needed', () => {
  const json = Buffer.from(`[${'0,'.repeat(100)}`);
  const read: number[] = [];
  const watched = new Proxy(json, {
    get: (target, key) => {
      if (/^\d+$/.test(String(key))) read.push(Number(key));
      return Reflect.get(target, key);
    },
  });
  expect(new JsonCount({ ...ANY, valuesMax: 10 }).add(watched)).toBe('10 JSON values');
  expect(read).toHaveLength(19);
});
