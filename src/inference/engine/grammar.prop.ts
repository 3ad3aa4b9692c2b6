import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { EngineError } from './errors.ts';
import { callGrammar, type JsonSchema, schemaGrammar } from './grammar.ts';

const name = fc.oneof(fc.string(), fc.constantFrom('type', '$ref', '__proto__', 'constructor'));
const { schema } = fc.letrec<{ schema: unknown }>((tie) => ({
  schema: fc.oneof(
    { depthSize: 'small' },
    fc.jsonValue({ maxDepth: 1 }),
    fc.record(
      {
        type: fc.oneof(
          fc.constantFrom('object', 'array', 'string', 'integer', 'null', 'nonsense'),
          fc.array(fc.constantFrom('object', 'string')),
        ),
        properties: fc.dictionary(name, tie('schema'), { maxKeys: 4 }),
        required: fc.array(name, { maxLength: 3 }),
        items: tie('schema'),
        prefixItems: fc.array(tie('schema'), { maxLength: 3 }),
        anyOf: fc.array(tie('schema'), { maxLength: 3 }),
        allOf: fc.array(tie('schema'), { maxLength: 2 }),
        $ref: fc.constantFrom('#', '#/properties/a', '#/$defs/x', '#/anyOf/0', 'http://x'),
        $defs: fc.dictionary(fc.constantFrom('x', 'y'), tie('schema'), { maxKeys: 2 }),
        enum: fc.array(fc.jsonValue(), { maxLength: 3 }),
        additionalProperties: fc.oneof(fc.boolean(), tie('schema')),
        minItems: fc.integer(),
        maxItems: fc.integer(),
        maxLength: fc.double(),
      },
      { requiredKeys: [] },
    ),
  ),
}));

function undefinedNames(gbnf: string): string[] {
  const lines = gbnf.trim().split('\n');
  const defined = new Set(lines.map((line) => line.split(' ::= ', 1)[0] ?? ''));
  return lines.flatMap((line) => {
    const body = line
      .slice(line.indexOf(' ::= ') + 5)
      .replace(/"(?:[^"\\]|\\.)*"/g, ' ')
      .replace(/\[(?:[^\]\\]|\\.)*\]/g, ' ')
      .replace(/\{\d+,\d*\}/g, ' ');
    return (body.match(/[A-Za-z][\w-]*/g) ?? []).filter((word) => !defined.has(word));
  });
}

describe('schemaGrammar', () => {
  it('makes a closed grammar of one line per rule, or refuses, for any schema', () => {
    fc.assert(
      fc.property(schema, fc.boolean(), (value, strict) => {
        try {
          const gbnf = schemaGrammar(value as JsonSchema, strict);
          expect(undefinedNames(gbnf)).toEqual([]);
          for (const line of gbnf.trim().split('\n')) expect(line).toMatch(/^[\w-]+ ::= /);
        } catch (error) {
          if (!(error instanceof EngineError)) throw error;
          expect(error.code).toBe('bad_request');
        }
      }),
      { numRuns: 2_000 },
    );
  });

  it('keeps the rules of several tools separate', () => {
    fc.assert(
      fc.property(fc.array(schema, { minLength: 1, maxLength: 4 }), (schemas) => {
        const tools = schemas.map((one, i) => ({ name: `f${i}`, parameters: one as JsonSchema }));
        try {
          expect(undefinedNames(callGrammar(tools, 'open'))).toEqual([]);
        } catch (error) {
          if (!(error instanceof EngineError)) throw error;
        }
      }),
    );
  });
});
