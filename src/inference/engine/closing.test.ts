import { describe, expect, it } from 'vitest';
import { Closer, GrammarState } from './closing.ts';
import { ClosableGrammar } from './closing-grammar.ts';
import { callGrammar, type JsonSchema, NO_CALL_GRAMMAR, schemaGrammar } from './grammar.ts';

const text = { type: 'string' };
const person: JsonSchema = {
  properties: { name: text, tags: { type: 'array', items: text }, age: { type: 'integer' } },
  required: ['name', 'age'],
};
const state = (gbnf: string): GrammarState => new GrammarState(new ClosableGrammar(gbnf));
/** Counts each character as a token. */
const closer = (gbnf: string, tokensMax: number): Closer =>
  new Closer(new ClosableGrammar(gbnf), (one) => [...one].length, tokensMax);

describe('GrammarState', () => {
  it.each([
    ['', '{"name": "", "age": 0}'],
    ['{"name": "Ada', '", "age": 0}'],
    ['{"name": "Ada\\', '"", "age": 0}'],
    ['{"name": "Ada\\u00', '00", "age": 0}'],
    ['{"name": "Ada", "tags": ["x", ', '""], "age": 0}'],
    ['{"name": "Ada", "age": 3', '}'],
    ['{"name": "Ada", "age": -', '0}'],
    ['{"name": "Ada", "age": 3}', ''],
  ])('completes %j in the shortest way', (begun, rest) => {
    const one = state(schemaGrammar(person));
    expect(one.advance(begun)).toBe(true);
    expect(one.completion()).toBe(rest);
    expect(one.cost).toBe(rest.length);
  });

  it.each(['[', '{"age', '{"name": "a\n', '{"name": "a", "age": x'])('refuses %j', (begun) => {
    const one = state(schemaGrammar(person));
    expect(one.advance(begun)).toBe(false);
    expect(one.completion()).toBe('{"name": "", "age": 0}');
  });

  it('completes a call, and leaves a text unchanged', () => {
    const call = callGrammar([{ name: 'f', parameters: person }], 'nothing');
    const one = state(call);
    expect(one.advance('<tool_call>\n{"name": "f", "arguments": {"na')).toBe(true);
    expect(one.completion()).toBe('me": "", "age": 0}}\n</tool_call>');
    for (const gbnf of [call, NO_CALL_GRAMMAR]) {
      const plain = state(gbnf);
      expect(plain.advance('\nHello <b>')).toBe(true);
      expect(plain.completion()).toBe('');
    }
  });

  it('completes recursive schemas', () => {
    const one = state(
      schemaGrammar({
        $ref: '#/$defs/n',
        $defs: { n: { properties: { a: { type: 'array', items: { $ref: '#/$defs/n' } } } } },
      }),
    );
    expect(one.advance('{"a": [{"a": [{')).toBe(true);
    expect(one.completion()).toBe('}]}]}');
  });

  it('keeps few stacks in a long answer of many limited repetitions', () => {
    const items = { type: 'array', items: { type: 'string', maxLength: 500 }, maxItems: 500 };
    const one = state(schemaGrammar({ type: 'array', items, maxItems: 500 }));
    let written = '[["';
    expect(one.advance(written)).toBe(true);
    let most = 0;
    for (let i = 0; i < 2_000; i++) {
      const piece = i % 20 === 19 ? '"], ["' : i % 5 === 4 ? '", "' : 'lorem ipsum ';
      expect(one.advance(piece)).toBe(true);
      written += piece;
      most = Math.max(most, one.spent.stacks);
    }
    expect(most).toBeLessThan(20_000);
    expect(one.spent.steps).toBeGreaterThan(3 * most);
    expect(JSON.parse(written + one.completion())).toHaveLength(101);
  });
});

/** Schemas that a guest may send, with pieces of their answers. */
const hostile: Record<string, [JsonSchema, readonly string[]]> = {
  'lists that begin alike, nested': [{ anyOf: many(30, () => ({ type: 'array', items: { $ref: '#' } })) }, ['[']],
  'two such lists': [{ anyOf: many(2, () => ({ type: 'array', items: { $ref: '#' } })) }, ['[', ']', ', ']],
  'strings of many lengths': [
    { items: { anyOf: many(200, (i) => ({ type: 'string', maxLength: 200 + i })) } },
    ['["', 'xxxxxxxx', '", "'],
  ],
  'long texts that begin alike': [{ enum: many(500, (i) => `${'x'.repeat(200)}${i}`) }, ['"', 'xx']],
  'optional properties': [
    { properties: Object.fromEntries(many(400, (i) => [`k${i}`, { type: 'integer' }])) },
    ['{"k', '1', '": ', ', "k'],
  ],
  'the same value many times': [{ items: { anyOf: many(1_000, () => true) } }, ['[', '{"', 'a', '": ', '[{"']],
  'minimums in minimums': [
    many(31, () => null).reduce<object>((items) => ({ minItems: 512, items }), text) as JsonSchema,
    ['['],
  ],
};

describe('cost of hostile schemas', () => {
  it.each(Object.entries(hostile))('is bounded for each piece: %s', (_, [schema, pieces]) => {
    const one = state(schemaGrammar(schema));
    let before = 0;
    for (let i = 0; i < 300; i++) {
      one.advance(pieces[i % pieces.length] ?? '');
      if (one.cost > 50) one.completion();
      const { steps, stacks } = one.spent;
      expect(steps - before).toBeLessThanOrEqual(10_000);
      expect(stacks).toBeLessThan(40_000);
      before = steps;
    }
    expect(before).toBeLessThanOrEqual(10_000 + 300 * 1_000);
  });

  it('leaves room for many tools', () => {
    const properties = Object.fromEntries(many(6, (i) => [`arg${i}`, text]));
    const tools = many(128, (i) => ({ name: `tool${i}`, parameters: { properties } }));
    const one = state(callGrammar(tools, 'nothing'));
    expect(one.advance('<tool_call>\n{"name": "tool')).toBe(true);
    expect(one.advance('77", "arguments": {"arg4": "x')).toBe(true);
    expect(one.completion()).toBe('"}}\n</tool_call>');
  });

  it.each([
    ['long', { const: 'x'.repeat(200_000) }],
    ['many parts', { enum: many(15_000, (i) => i % 10) }],
    ['costs that take many passes', chained(250)],
    ['a long shortest answer', { type: 'array', items: { type: 'string', minLength: 500 }, minItems: 9 }],
  ])('is zero if the answer is not followed: %s', (_, schema) => {
    const gbnf = schemaGrammar(schema);
    const counted: string[] = [];
    const count = (one: string) => counted.push(one);
    const one = new Closer(new ClosableGrammar(gbnf), count, 1_000);
    for (let left = 999; left >= 0; left--) expect(one.accept('x', left)).toBeNull();
    expect(counted).toEqual([]);
  });

  it('lets an answer continue if a token takes too many steps', () => {
    const { 'two such lists': [schema] = [{}] } = hostile;
    const one = closer(schemaGrammar(schema), 40);
    for (let left = 39; left >= 0; left--) expect(one.accept('[', left) ?? ']').toMatch(/^\]+$/);
    const wide = closer(schemaGrammar({ anyOf: many(30, () => ({ items: { $ref: '#' } })) }), 40);
    for (let left = 39; left >= 0; left--) expect(wide.accept('[', left)).toBeNull();
  });

  it('counts tokens only of short texts', () => {
    const counted: number[] = [];
    const count = (one: string) => counted.push(one.length) && one.length / 3;
    const schema = { properties: { a: text, b: { const: 'x'.repeat(2_000) } }, required: ['a', 'b'] };
    const one = new Closer(new ClosableGrammar(schemaGrammar(schema)), count, 1_100);
    let left = 1_099;
    expect(one.accept('{"a": "', left)).toBeNull();
    let end: string | null = null;
    while (end === null) end = one.accept('x', --left);
    expect(JSON.parse(`{"a": "${end}`)).toMatchObject({ a: '' });
    expect(counted).toEqual([end.length]);
  });
});

function many<T>(length: number, make: (i: number) => T): T[] {
  return Array.from({ length }, (_, i) => make(i));
}

/** The cost of each choice depends on that of the previous one. */
function chained(length: number): JsonSchema {
  const $defs: Record<string, object> = { z0: { const: 1 } };
  for (let i = 1; i <= length; i++) {
    $defs[`a${i}`] = { anyOf: [{ $ref: `#/$defs/z${i}` }, { $ref: `#/$defs/z${i - 1}` }] };
    $defs[`z${i}`] = { properties: { a: { $ref: `#/$defs/a${i}` } }, required: ['a'] };
  }
  return { prefixItems: many(length, (i) => ({ $ref: `#/$defs/a${i + 1}` })), $defs };
}

describe('Closer', () => {
  it('ends a string that repeats itself, at the last token that still allows it', () => {
    const one = closer(schemaGrammar(person), 40);
    const begin = '{"name": "';
    let left = 40;
    for (const char of begin) expect(one.accept(char, --left)).toBeNull();
    let repeated = 0;
    let end: string | null = null;
    while (end === null) {
      end = one.accept('x', --left);
      if (end === null) repeated++;
    }
    expect(end).toBe('", "age": 0}');
    expect(begin.length + repeated + end.length).toBe(40);
  });

  it('refuses a token that opens more than can be closed', () => {
    const one = closer(schemaGrammar({ type: 'array', items: person }), 3);
    expect(one.accept('[', 2)).toBeNull();
    expect(one.accept('{"', 1)).toBe(']');
  });

  it('does not interfere if even the shortest answer is too long', () => {
    const one = closer(schemaGrammar(person), 10);
    for (let left = 9; left >= 0; left--) expect(one.accept('{', left)).toBeNull();
  });

  it('accepts an answer without its leading space', () => {
    const one = closer(callGrammar([{ name: 'f', parameters: person }], 'name'), 60);
    expect(one.accept('{"name": "', 37)).toBeNull();
    const end = '", "age": 0}}\n</tool_call>';
    expect(one.accept('x', end.length - 1)).toBe(end);
  });
});
