import { describe, expect, it } from 'vitest';
import { EngineError } from './errors.ts';
import {
  BASE_MODEL_BOUNDS,
  callGrammar,
  type JsonSchema,
  jsonObjectGrammar,
  literal,
  schemaGrammar,
} from './grammar.ts';

/** The rules that the schema adds to the primitives, as `name → body`. */
function rules(gbnf: string): Record<string, string> {
  return Object.fromEntries(
    gbnf
      .trim()
      .split('\n')
      .map((line) => line.split(' ::= ', 2) as [string, string]),
  );
}

const twice: readonly string[] = Array(1_000).fill('object');
const long = 'x'.repeat(300_000);
const names = (count: number) => Array.from({ length: count }, (_, i) => [`k${i}`, true] as const);

const refusal = (schema: JsonSchema, strict = false): string => {
  try {
    schemaGrammar(schema, strict);
  } catch (error) {
    if (error instanceof EngineError && error.code === 'bad_request') return error.message;
    throw error;
  }
  return 'accepted';
};

describe('schemaGrammar', () => {
  it.each<[string, JsonSchema, string]>([
    ['anything', true, 'value'],
    ['no type', {}, 'value'],
    ['a string', { type: 'string' }, 'string'],
    ['an integer', { type: 'integer' }, 'integer'],
    ['any object', { type: 'object' }, 'object'],
    ['no members', { type: 'object', additionalProperties: false }, 'r'],
  ])('maps %s to a symbol', (_name, schema, root) => {
    expect(rules(schemaGrammar(schema))['root']).toBe(root);
  });

  it.each<[string, JsonSchema, string]>([
    ['const', { const: 'a"b' }, '"\\"a\\\\\\"b\\""'],
    ['enum', { enum: [1, null, 'x'] }, '"1" | "null" | "\\"x\\""'],
    ['string length', { type: 'string', minLength: 2, maxLength: 5 }, '"\\"" char{2,5} "\\""'],
    ['array', { type: 'array', items: { type: 'integer' } }, '"[" (integer (", " integer)*)? "]"'],
    [
      'array size',
      { type: 'array', items: { type: 'null' }, minItems: 2, maxItems: 3 },
      '"[" null (", " null){1,2} "]"',
    ],
    ['empty array', { type: 'array', maxItems: 0 }, '"[]"'],
    ['tuple', { type: 'array', prefixItems: [{ type: 'string' }, { type: 'null' }] }, '"[" string ", " null "]"'],
    ['types', { type: ['integer', 'null'] }, 'integer | null'],
    ['anyOf', { anyOf: [{ type: 'string' }, { type: 'null' }] }, 'string | null'],
    [
      'map',
      { type: 'object', additionalProperties: { type: 'boolean' } },
      '"{" (string ": " boolean (", " string ": " boolean)*)? "}"',
    ],
  ])('writes the rule of %s', (_name, schema, body) => {
    expect(rules(schemaGrammar(schema))['r']).toBe(body);
  });

  it('keeps the declared order and allows omitting optional members', () => {
    const grammar = rules(schemaGrammar({ properties: { a: { type: 'null' }, b: { type: 'null' } }, required: ['b'] }));
    expect(grammar['r']).toBe('"{" r-f0 "}"');
    expect(grammar['r-f0']).toBe('"\\"a\\": " null r-n1 | r-f1');
    expect(grammar['r-f1']).toBe('"\\"b\\": " null ""');
    expect(grammar['r-n1']).toBe('", " "\\"b\\": " null ""');
  });

  it('follows references, including recursive ones', () => {
    const grammar = rules(
      schemaGrammar({ $ref: '#/$defs/node', $defs: { node: { type: 'array', items: { $ref: '#/$defs/node' } } } }),
    );
    expect(grammar['root']).toBe('r-ref0');
    expect(grammar['r-ref0']).toBe('r-ref0-t');
    expect(grammar['r-ref0-t']).toBe('"[" (r-ref0 (", " r-ref0)*)? "]"');
  });

  it('merges allOf of objects, and reduces allOf of one schema to it', () => {
    const merged = rules(
      schemaGrammar({ allOf: [{ properties: { a: {} }, required: ['a'] }, { properties: { b: {} } }] }),
    );
    expect(merged['r-f0']).toContain('\\"a\\"');
    expect(merged['r-n1']).toContain('\\"b\\"');
    expect(rules(schemaGrammar({ allOf: [{ type: 'null' }] }))['root']).toBe('null');
  });

  it.each<[string, JsonSchema, string]>([
    ['an unknown type', { type: 'date' }, 'unknown type'],
    ['a missing target', { $ref: '#/nowhere' }, 'no target'],
    ['a foreign reference', { $ref: 'http://x/y' }, 'outside'],
    ['a reference to itself', { $ref: '#' }, 'itself'],
    ['an empty enum', { enum: [] }, 'empty'],
    ['a crossed range', { type: 'string', minLength: 3, maxLength: 2 }, 'below'],
    ['a huge minimum', { type: 'string', minLength: 1e9 }, 'above'],
    ['a property that is not a schema', { properties: { a: 3 } }, 'must be an object'],
    ['a prototype as a target', { $ref: '#/constructor' }, 'no target'],
  ])('refuses %s', (_name, schema, message) => {
    expect(refusal(schema)).toContain(message);
  });

  it('refuses a schema that is nested too deeply or has too many rules', () => {
    let deep: JsonSchema = { type: 'null' };
    for (let i = 0; i < 50; i++) deep = { type: 'array', items: deep };
    expect(refusal(deep)).toContain('deeper');
    const names = Array.from({ length: 2_000 }, (_, i) => [`p${i}`, { type: 'null' }]);
    expect(refusal({ properties: Object.fromEntries(names) })).toContain('rules');
  });

  it.each<[string, JsonSchema, string]>([
    ['a long text of many types', { type: twice, properties: { a: { enum: [long] } } }, 'bytes'],
    ['long texts', { enum: Array.from({ length: 30 }, () => '"'.repeat(10_000)) }, 'bytes'],
    [
      'many names of one schema',
      {
        anyOf: Array.from({ length: 1_000 }, (_, i) => ({ $ref: `#${i}/$defs/a` })),
        $defs: { a: { properties: { b: true }, required: Array(1_000).fill('b') } },
      },
      'parts',
    ],
    [
      'merged objects in merged objects',
      Array.from({ length: 30 }).reduce<object>((inner) => ({ ...Object.fromEntries(names(1_000)), allOf: [inner] }), {
        type: 'integer',
      }) as JsonSchema,
      'parts',
    ],
    ['many properties', { properties: Object.fromEntries(names(30_000)) }, 'parts'],
  ])('refuses small schemas that expand to much work: %s', (_name, schema, message) => {
    expect(refusal(schema)).toContain(message);
  });

  it('counts all tools of a call together', () => {
    const parameters = { properties: { a: true }, required: Array(1_000).fill('a') };
    const tools = Array.from({ length: 30 }, (_, i) => ({ name: `f${i}`, parameters }));
    expect(() => callGrammar(tools, 'open')).toThrow('parts');
    expect(callGrammar(tools.slice(0, 10), 'open')).toContain('f9');
  });

  it('counts a type that is listed many times only once', () => {
    expect(schemaGrammar({ type: twice, properties: { a: true } })).toBe(
      schemaGrammar({ type: ['object'], properties: { a: true } }),
    );
  });

  it('ignores keywords that it can’t enforce, but refuses them when strict', () => {
    const schema = { type: 'object', properties: { n: { type: 'integer', minimum: 3 } } };
    expect(refusal(schema)).toBe('accepted');
    expect(refusal(schema, true)).toContain('"minimum"');
  });

  it('bounds lists and strings for base models only', () => {
    const schema = { type: 'array', items: { type: 'string' } };
    expect(schemaGrammar(schema, false, BASE_MODEL_BOUNDS)).toContain('(", " string){0,11}');
    expect(schemaGrammar(schema, false, BASE_MODEL_BOUNDS)).toContain('char{0,200}');
    expect(schemaGrammar(schema)).toContain('(", " string)*');
  });
});

describe('callGrammar', () => {
  const tools = [
    { name: 'add', parameters: { properties: { a: { type: 'integer' } }, required: ['a'] } },
    { name: 'now', parameters: { type: 'object', properties: {} } },
  ];
  it('offers each tool with its own arguments', () => {
    const root = rules(callGrammar(tools, 'open'))['root'];
    expect(root).toBe('("add\\", \\"arguments\\":" " " t0 | "now\\", \\"arguments\\":" " " t1) "}\\n</tool_call>"');
  });
  it('covers only the arguments if the prompt has the name', () => {
    expect(rules(callGrammar(tools.slice(0, 1), 'name'))['root']).toBe('(" " t0) "}\\n</tool_call>"');
  });
  it('allows a text instead of a call if the prompt has no part of a call', () => {
    expect(rules(callGrammar(tools, 'nothing'))['root']).toContain('| [^< \\t\\n] [^\\x00]*)');
  });
});

describe('jsonObjectGrammar', () => {
  it('requires a member', () => {
    expect(rules(jsonObjectGrammar())['root']).toBe('"{" members "}"');
  });
});

describe('literal', () => {
  it.each([
    ['a"b', '"a\\"b"'],
    ['\\', '"\\\\"'],
    ['\n\t\r', '"\\n\\t\\r"'],
    ['\u0001', '"\\x01"'],
    ['ü😀', '"ü😀"'],
  ])('quotes %j', (text, quoted) => {
    expect(literal(text)).toBe(quoted);
  });
});
