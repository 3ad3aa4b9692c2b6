import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isJsonObject, type JsonObject } from '../json-body.ts';
import { exactKey } from './exact-key.ts';

const name = fc.oneof(
  fc.string({ maxLength: 8 }),
  fc.constantFrom('messages', 'temperature', 'seed', 'user', 'model', '__proto__', 'options', 'n'),
);
const body = fc.array(fc.tuple(name, fc.jsonValue({ maxDepth: 3 })), { maxLength: 6 }).map((members): JsonObject => {
  const text = members.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`);
  const parsed: unknown = JSON.parse(`{${text.join(',')}}`);
  return isJsonObject(parsed) ? parsed : {};
});
const ALL = { ttlMs: 1000, requests: 'all' } as const;
const CHAT = { name: 'chat', generates: true };
const base = { dialect: 'openai', operation: CHAT, stream: false, allowFields: [] };
const key = (of: JsonObject): string | null => exactKey({ ...base, body: of }, ALL);

const UNREAD = new Set(['user', 'model', 'metadata', 'store', 'stream', 'safety_identifier']);
UNREAD.add('prompt_cache_key').add('prompt_cache_retention');

const textOf = (of: JsonObject): string =>
  JSON.stringify(
    Object.entries(of)
      .filter(([each]) => !UNREAD.has(each))
      .sort(([a], [b]) => (a < b ? -1 : 1)),
  );

describe('exactKey', () => {
  it('is equal exactly for bodies whose members are equal, in any order', () => {
    fc.assert(
      fc.property(body, body, fc.boolean(), (a, other, isSame) => {
        const b = isSame ? Object.fromEntries(Object.entries(a).reverse()) : other;
        const [one, two] = [key(a), key(b)];
        if (one === null || two === null) return;
        expect(one === two).toBe(textOf(a) === textOf(b));
      }),
    );
  });

  it('differs between APIs, operations, streams and what a sandbox may send', () => {
    const of = { messages: [] };
    const keys = [
      { ...base },
      { ...base, dialect: 'anthropic' },
      { ...base, operation: { name: 'completions', generates: true } },
      { ...base, stream: true },
      { ...base, allowFields: ['speed'] },
    ].map((request) => exactKey({ ...request, body: of }, ALL));
    expect(new Set(keys).size).toBe(keys.length);
    expect(keys).not.toContain(null);
  });

  it('never confuses two numbers that only servers distinguish', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 2n ** 53n, max: 2n ** 70n }), fc.boolean(), (big, isNegative) => {
        const parsed: unknown = JSON.parse(`{"a":[{"b":${isNegative ? -big : big}}]}`);
        expect(key(isJsonObject(parsed) ? parsed : {})).toBeNull();
      }),
    );
  });
});
