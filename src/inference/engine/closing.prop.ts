import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Closer, GrammarState } from './closing.ts';
import { ClosableGrammar } from './closing-grammar.ts';
import { BASE_MODEL_BOUNDS, jsonObjectGrammar, schemaGrammar, UNBOUNDED } from './grammar.ts';

const leaf = fc.constantFrom<object>(
  { type: 'string' },
  { type: 'string', minLength: 3, maxLength: 9 },
  { type: 'integer' },
  { type: 'number' },
  { type: ['string', 'null'] },
  { enum: ['a"b', 'a"', 'ü\n', 3] },
  { const: { '[x-y]': '{1,2}' } },
  { type: 'object' },
  {},
);
const { schema } = fc.letrec<{ schema: object }>((tie) => ({
  schema: fc.oneof(
    { depthSize: 'small' },
    leaf,
    fc.record({ type: fc.constant('array'), items: tie('schema'), minItems: fc.nat(3) }),
    fc.record({ anyOf: fc.array(tie('schema'), { minLength: 1, maxLength: 3 }) }),
    fc.record({ type: fc.constant('object'), additionalProperties: tie('schema') }),
    fc
      .dictionary(fc.string(), tie('schema'), { minKeys: 1, maxKeys: 4 })
      .chain((properties) =>
        fc.subarray(Object.keys(properties)).map((required) => ({ type: 'object', properties, required })),
      ),
  ),
}));

/** Texts of "tokens": pieces of JSON, and pieces of several characters. */
const piece = fc.constantFrom(
  ...'{}[]",:0-9.eatrufnls\\ü😀 ',
  '": ',
  ', ',
  '{"',
  '"}',
  '", "',
  'lo lo lo ',
  '[[',
  'null',
);

/** Writes `pieces` that the grammar allows, as a model would, and what the closer writes instead. */
function write(gbnf: string, pieces: readonly string[], tokensMax: number) {
  const grammar = new ClosableGrammar(gbnf);
  const allowed = new GrammarState(grammar);
  const closer = new Closer(grammar, (text) => [...text].length, tokensMax);
  let text = '';
  let tokens = 0;
  for (const one of pieces) {
    if (tokens === tokensMax || !allowed.advance(one)) continue;
    const end = closer.accept(one, tokensMax - tokens - 1);
    if (end !== null) return { text: text + end, tokens: tokens + [...end].length };
    text += one;
    tokens += 1;
  }
  return { text, tokens };
}

describe('Closer', () => {
  it('completes any answer within its limit, as JSON with everything that the schema requires', () => {
    fc.assert(
      fc.property(
        schema,
        fc.boolean(),
        fc.array(piece, { minLength: 200, maxLength: 400 }),
        fc.nat(40),
        (value, isBase, pieces, spare) => {
          const gbnf = schemaGrammar(value as Record<string, unknown>, false, isBase ? BASE_MODEL_BOUNDS : UNBOUNDED);
          const shortest = new GrammarState(new ClosableGrammar(gbnf)).completion() ?? '';
          const tokensMax = [...shortest].length + spare;
          const { text, tokens } = write(gbnf, pieces, tokensMax);
          expect(tokens).toBeLessThanOrEqual(tokensMax);
          // Pieces may run out before the limit; then the model has not ended yet.
          const rest = new GrammarState(new ClosableGrammar(gbnf));
          expect(rest.advance(text)).toBe(true);
          const parsed: unknown = JSON.parse(text + (tokens < tokensMax ? rest.completion() : ''));
          const { required = [] } = value as { readonly required?: readonly string[] };
          for (const key of required) expect(Object.hasOwn(parsed as object, key)).toBe(true);
        },
      ),
      { numRuns: 200 },
    );
  });

  it('follows any JSON object that the grammar can write', () => {
    const grammar = new ClosableGrammar(jsonObjectGrammar());
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.string(), { minKeys: 1 }), (value) => {
        const members = Object.entries(value).map((pair) => pair.map(quote).join(': '));
        const state = new GrammarState(grammar);
        expect(state.advance(`{${members.join(', ')}}`)).toBe(true);
        expect(state.completion()).toBe('');
        expect(state.advance(' ')).toBe(false);
      }),
    );
  });
});

/** JSON without a DEL, which the grammar refuses. */
const quote = (text: string): string => JSON.stringify(text).replaceAll('\u007f', '\\u007f');
