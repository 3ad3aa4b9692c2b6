import { describe, expect, it } from 'vitest';
import { editJson, parseJsonBody } from './json-body.ts';

const LIMITS = { jsonDepthMax: 8, jsonContainersMax: 30, jsonValuesMax: 50, jsonKeysMax: 40, jsonMembersMax: 20 };
const parse = (text: string | Buffer) => parseJsonBody(Buffer.from(text as string), LIMITS);

describe('parseJsonBody', () => {
  it.each([
    ['nothing', ''],
    ['a list', '[1]'],
    ['half an object', '{"a":'],
    ['two objects', '{}{}'],
    ['a byte order mark', '\ufeff{}'],
    ['broken UTF-8', Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])],
    ['an unfinished string', '{"a":"b'],
    ['only closing brackets', ']]]]'],
  ])('refuses %s', (_, text) => {
    const result = parse(text);
    expect(result).toMatchObject({ ok: false, refusal: { status: 400, code: 'invalid_json' } });
  });

  it.each([
    ['at the top', '{"model":"a","model":"b"}'],
    ['spelled with an escape', String.raw`{"model":"a","mo\u0064el":"b"}`],
    ['nested', '{"a":[{"b":1,"b":2}]}'],
    ['as __proto__', '{"__proto__":1,"__proto__":2}'],
  ])('refuses a key that occurs twice, %s', (_, text) => {
    const result = parse(text);
    expect(result.ok ? '' : result.refusal.message).toContain('twice');
  });

  it('distinguishes colons, quotes and braces in strings from structure', () => {
    const text = String.raw`{"a:\"{":"},\\","b":[":"],"__proto__":{"c":1}}`;
    expect(parse(text).ok).toBe(true);
  });

  it('limits depth, containers, values and keys', () => {
    const deep = (n: number) => `{"a":${'['.repeat(n)}${']'.repeat(n)}}`;
    expect(parse(deep(7)).ok).toBe(true);
    expect(parse(deep(8)).ok).toBe(false);
    const wide = (n: number) => `{"a":[${Array(n).fill('1').join()}]}`;
    expect(parse(wide(50)).ok).toBe(true);
    expect(parse(wide(51)).ok).toBe(false);
    const full = (n: number) => `{"a":[${Array(n).fill('{}').join()}]}`;
    expect(parse(full(28)).ok).toBe(true);
    expect(parse(full(29)).ok).toBe(false);
    const keys = (n: number) => Array.from({ length: n }, (_, i) => `"${i}":1`).join();
    expect(parse(`{"a":{${keys(39)}}}`).ok).toBe(true);
    expect(parse(`{"a":{${keys(40)}}}`).ok).toBe(false);
    expect(parse(`{${keys(20)}}`).ok).toBe(true);
    expect(parse(`{${keys(21)}}`).ok).toBe(false);
  });
});

describe('editJson', () => {
  const edit = (text: string, changes: Record<string, unknown>): string => {
    const body = parse(text);
    if (!body.ok) throw new Error(body.refusal.message);
    return Buffer.concat(editJson(Buffer.from(text), body.value.layout, changes)).toString();
  };

  it('leaves every other byte unchanged', () => {
    const text = ' { "seed" : 18446744073709551615 , "model" : "a" , "t":1e400,"e":"\\u00e9"}\n';
    expect(edit(text, { model: 'b' })).toBe(
      ' { "seed" : 18446744073709551615 , "model" :"b", "t":1e400,"e":"\\u00e9"}\n',
    );
  });
  it('replaces several members in any order', () => {
    expect(edit('{"b":[1,{"a":2}],"a":{"b":3}}', { a: 1, b: 2 })).toBe('{"b":2,"a":1}');
  });
  it('finds a member whose key is escaped', () => {
    expect(edit(String.raw`{"mo\u0064el":"a"}`, { model: 'b' })).toBe(String.raw`{"mo\u0064el":"b"}`);
  });
  it('adds missing members', () => {
    expect(edit('{"a":1}', { b: { c: true } })).toBe('{"a":1,"b":{"c":true}}');
    expect(edit('{ }', { b: 1, c: 2 })).toBe('{ "b":1,"c":2}');
  });
});
