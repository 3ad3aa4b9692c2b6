import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { list, record } from './values.ts';

function counted() {
  let calls = 0;
  const item = z.string().refine((text) => {
    calls += 1;
    return text !== 'wrong';
  });
  return { item, calls: () => calls };
}
const times = (count: number, text = 'right'): string[] => Array.from({ length: count }, () => text);

describe('list', () => {
  it('checks each item, up to the first wrong one', () => {
    const { item, calls } = counted();
    const three = list(item, 3);
    expect(three.parse(times(3))).toEqual(times(3));
    expect(calls()).toBe(3);
    const { error } = three.safeParse(['right', 'wrong', 'wrong']);
    expect(error?.issues.map(({ path }) => path)).toEqual([[1]]);
    expect(calls()).toBe(5);
  });
  it('looks at no item of too many', () => {
    const { item, calls } = counted();
    const { error } = list(item, 3).min(1).safeParse(times(4));
    expect(error?.issues).toMatchObject([{ message: 'expected at most 3', path: [] }]);
    expect(calls()).toBe(0);
  });
  it('keeps other checks and transforms', () => {
    const numbers = list(z.string().transform(Number), 3).min(1);
    expect(numbers.parse(['1', '2'])).toEqual([1, 2]);
    expect(numbers.safeParse([]).success).toBe(false);
    expect(numbers.safeParse('1').success).toBe(false);
    expect(z.toJSONSchema(numbers, { io: 'input' })).toMatchObject({ minItems: 1, maxItems: 3 });
  });
});

describe('record', () => {
  it('looks at no pair of too many', () => {
    const [key, value] = [counted(), counted()];
    const two = record(key.item, value.item, 2).describe('Pairs.');
    expect(two.parse({ a: 'b', c: 'd' })).toEqual({ a: 'b', c: 'd' });
    expect([key.calls(), value.calls()]).toEqual([2, 2]);
    const { error } = two.safeParse({ a: 'b', c: 'd', e: 'f' });
    expect(error?.issues).toMatchObject([{ message: 'expected at most 2 pairs', path: [] }]);
    expect([key.calls(), value.calls()]).toEqual([2, 2]);
    expect(two.safeParse(null).success).toBe(false);
    expect(two.safeParse(new Map()).success).toBe(false);
    expect(z.toJSONSchema(two)).toMatchObject({ maxProperties: 2, description: 'Pairs.' });
  });
  it('stops at the first wrong key or value', () => {
    const { item, calls } = counted();
    const three = record(item, z.string(), 3);
    const { error } = three.safeParse({ a: 'b', wrong: 'd', e: 'f' });
    expect(error?.issues).toMatchObject([{ code: 'invalid_key', path: ['wrong'] }]);
    expect(calls()).toBe(2);
    expect(three.safeParse({ a: 1, b: 1 }).error?.issues.map(({ path }) => path)).toEqual([['a']]);
    expect(Object.getPrototypeOf(three.parse(JSON.parse('{"a":"b","__proto__":"c"}')))).toBe(Object.prototype);
  });
  it('does not count an answer', () => {
    expect(z.encode(record(z.string(), z.string(), 1), { a: 'b', c: 'd' })).toEqual({ a: 'b', c: 'd' });
  });
});
