import { describe, expect, it } from 'vitest';
import type { JsonObject } from '../json-body.ts';
import { exactKey } from './exact-key.ts';

const base = { dialect: 'openai', stream: false, allowFields: [] };

describe('exactKey of `repeatable`', () => {
  const repeatable = (of: JsonObject, generates = true): boolean =>
    exactKey({ ...base, operation: { name: 'x', generates }, body: of }, { ttlMs: 1 }) !== null;
  it.each<[boolean, JsonObject]>([
    [true, { temperature: 0 }],
    [true, { seed: 0 }],
    [true, { seed: 5, temperature: 1, tools: [], functions: null }],
    [true, { random_seed: 5 }],
    [true, { options: { seed: 5 } }],
    [true, { temperature: 0, n: 1, best_of: null }],
    [false, {}],
    [false, { temperature: '0' }],
    [false, { temperature: null, seed: null }],
    [false, { seed: -1 }],
    [false, { temperature: 0, n: 2 }],
    [false, { temperature: 0, best_of: 2 }],
    [false, { temperature: 0, tools: [{}] }],
    [false, { temperature: 0, functions: [{}] }],
    [false, { temperature: 0, tools: {} }],
    [false, { options: [0] }],
  ])('%s: %j', (expected, of) => {
    expect(repeatable(of)).toBe(expected);
  });

  it('a number out of range has no key: it would equal null', () => {
    expect([repeatable({ seed: 1, x: JSON.parse('1e999') }), repeatable({ seed: 1, x: null })]).toEqual([false, true]);
  });

  it('embeddings always have a key, unless several are requested', () => {
    expect([repeatable({ input: 'a' }, false), repeatable({ n: 3 }, false)]).toEqual([true, false]);
  });
});
