import { describe, expect, it } from 'vitest';
import { ClosableGrammar, Closer, GrammarState } from './closing.ts';
import { callGrammar, type JsonSchema, NO_CALL_GRAMMAR, schemaGrammar } from './grammar.ts';

const text = { type: 'string' };
const person: JsonSchema = {
  properties: { name: text, tags: { type: 'array', items: text }, age: { type: 'integer' } },
  required: ['name', 'age'],
};
const state = (gbnf: string): GrammarState => new GrammarState(new ClosableGrammar(gbnf));
/** Each character is a token. */
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

  it('completes a call, and a text as it is', () => {
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

  it('gives up on a grammar with too many readings, in bounded time', () => {
    const anyOf = Array.from({ length: 30 }, () => ({ type: 'array', items: { $ref: '#' } }));
    const one = state(schemaGrammar({ anyOf }));
    let deepest = 0;
    while (deepest < 20 && one.advance('[')) deepest++;
    expect(deepest).toBeLessThan(20);
  });
});

describe('Closer', () => {
  it('ends a string that repeats itself, at the last token at which it still can', () => {
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

  it('does not interfere when even the shortest answer is too long', () => {
    const one = closer(schemaGrammar(person), 10);
    for (let left = 9; left >= 0; left--) expect(one.accept('{', left)).toBeNull();
  });

  it('accepts an answer without the space at its beginning', () => {
    const one = closer(callGrammar([{ name: 'f', parameters: person }], 'name'), 60);
    expect(one.accept('{"name": "', 37)).toBeNull();
    expect(one.accept('x', 5)).toBe('", "age": 0}}\n</tool_call>');
  });
});
