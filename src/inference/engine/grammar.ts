/**
 * Converts a JSON Schema to GBNF, llama.cpp's notation for grammars that restrict a model's output: at each step,
 * tokens outside the grammar get probability zero. So even a small model answers with valid JSON of the requested
 * shape.
 *
 * White space is fixed (`{"a": 1, "b": [2, 3]}`), since a weak model may write free white space forever. Objects have
 * their properties in declared order and no others. Notation: llama.cpp, grammars/README.md.
 */
import { EngineError } from './errors.ts';

/** An unchecked schema, parsed from JSON. */
export type JsonSchema = Readonly<Record<string, unknown>> | boolean;

const DEPTH_MAX = 32;
/** Rules of one grammar; they determine llama.cpp's cost. */
const RULES_MAX = 2_000;
const GRAMMAR_BYTES_MAX = 256 * 1024;
/** Schemas, keywords, properties and names processed for one grammar. A small schema may expand to many. */
const WORK_MAX = 20_000;
/** Largest enforced repetition, since llama.cpp expands each one into a rule. Larger ones are not limited. */
const REPEAT_MAX = 512;

export interface Bounds {
  readonly items: number | null;
  readonly characters: number | null;
}
export const UNBOUNDED: Bounds = { items: null, characters: null };
/** A base model may never end a list; without a limit its JSON would be truncated. */
export const BASE_MODEL_BOUNDS: Bounds = { items: 12, characters: 200 };

function primitives(bounds: Bounds): Record<string, string> {
  const characters = bounds.characters === null ? '*' : `{0,${bounds.characters}}`;
  const more = bounds.items === null ? '*' : `{0,${bounds.items - 1}}`;
  return {
    char: '[^"\\\\\\x7F\\x00-\\x1F] | "\\\\" (["\\\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F])',
    string: `"\\"" char${characters} "\\""`,
    integer: '"-"? ("0" | [1-9] [0-9]{0,15})',
    number: 'integer ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,3})?',
    boolean: '"true" | "false"',
    null: '"null"',
    blank: '[ \\n]{0,2}',
    value: 'object | array | string | number | boolean | null',
    members: `string ": " value (", " string ": " value)${more}`,
    object: '"{" members? "}"',
    array: `"[" (value (", " value)${more})? "]"`,
  };
}

/** Keywords that the grammar does not enforce. A `strict` schema with one is refused. */
const UNENFORCED = [
  'pattern',
  'minimum',
  'maximum',
  'exclusiveMinimum',
  'exclusiveMaximum',
  'multipleOf',
  'uniqueItems',
  'not',
  'if',
  'patternProperties',
];

/**
 * @param strict refuse keywords that can't be enforced
 * @throws EngineError `bad_request` if the schema is malformed, too large, or not supported
 */
export function schemaGrammar(schema: JsonSchema, strict = false, bounds = UNBOUNDED): string {
  const compiler = new Compiler(schema, bounds, strict);
  return compiler.finish(compiler.rule(schema, 'r', 0));
}

export function jsonObjectGrammar(bounds = UNBOUNDED): string {
  // A weak model would prefer the empty object.
  return new Compiler({}, bounds).finish('"{" members "}"');
}

export interface CallableTool {
  readonly name: string;
  readonly parameters: JsonSchema;
}

/** The form of a call: `<tool_call>\n{"name": "NAME", "arguments": {…}}\n</tool_call>`. */
export const CALL_OPEN = '<tool_call>\n{"name": "';
/** Without the following space: JSON tokens begin with it, and a prompt may end here. */
export const CALL_BETWEEN = '", "arguments":';
export const CALL_CLOSE = '}\n</tool_call>';

/**
 * A grammar for one call of one of `tools`.
 * @param begun the part of the call that the prompt already contains: `open` (`CALL_OPEN`), `name` (also the name), or
 * `nothing`, so that the model may also answer with a text that does not begin with `<`
 */
export function callGrammar(
  tools: readonly CallableTool[],
  begun: 'nothing' | 'open' | 'name',
  bounds = UNBOUNDED,
): string {
  const compiler = new Compiler({}, bounds);
  const calls = tools.map((tool, index) => {
    const own = compiler.forTool(tool.parameters, `t${index}`);
    const args = own.rule(tool.parameters, `t${index}`, 0);
    compiler.adopt(own);
    const before = begun === 'name' ? '' : `${literal(tool.name + CALL_BETWEEN)} `;
    return `${before}" " ${args}`;
  });
  const call = `(${calls.join(' | ')}) ${literal(CALL_CLOSE)}`;
  if (begun !== 'nothing') return compiler.finish(call);
  return compiler.finish(`blank (${literal(CALL_OPEN)} ${call} | ${TEXT})`);
}

const TEXT = '[^< \\t\\n] [^\\x00]*';
export const NO_CALL_GRAMMAR = `root ::= [ \\n]{0,2} ${TEXT}\n`;

interface Spent {
  work: number;
  rules: number;
  literals: number;
}

class Compiler {
  readonly #root: JsonSchema;
  readonly #bounds: Bounds;
  readonly #strict: boolean;
  readonly #rules = new Map<string, string>();
  /** `$ref` → rule name, so that recursive schemas terminate. */
  readonly #refs = new Map<string, string>();
  readonly #prefix: string;
  readonly #spent: Spent;

  constructor(
    root: JsonSchema,
    bounds: Bounds,
    strict = false,
    prefix = 'r',
    spent: Spent = { work: 0, rules: 0, literals: 0 },
  ) {
    this.#root = root;
    this.#bounds = bounds;
    this.#strict = strict;
    this.#prefix = prefix;
    this.#spent = spent;
  }

  /** A compiler whose rules count as part of this one's grammar. */
  forTool(root: JsonSchema, prefix: string): Compiler {
    return new Compiler(root, this.#bounds, this.#strict, prefix, this.#spent);
  }

  adopt(other: Compiler): void {
    for (const [name, body] of other.#rules) this.#add(name, body);
  }

  finish(root: string): string {
    const lines = [`root ::= ${root}`];
    for (const [name, body] of this.#rules) lines.push(`${name} ::= ${body}`);
    for (const [name, body] of Object.entries(primitives(this.#bounds))) lines.push(`${name} ::= ${body}`);
    const text = `${lines.join('\n')}\n`;
    checkSize(text.length);
    return text;
  }

  /** Returns a symbol that matches `schema`: a primitive's name or that of a new rule. */
  rule(schema: unknown, name: string, depth: number): string {
    if (depth > DEPTH_MAX) throw refuse(`the schema is nested deeper than ${DEPTH_MAX} levels`);
    if (schema === true || schema === undefined) return 'value';
    if (!isRecord(schema)) throw refuse('a schema must be an object');
    this.#work(1);
    this.#checkStrict(schema);
    const ref = schema['$ref'];
    if (typeof ref === 'string') return this.#ref(ref, depth);
    if ('const' in schema) return this.#set(name, this.#literal(json(schema['const'])));
    const choices = schema['enum'];
    if (Array.isArray(choices)) {
      if (choices.length === 0) throw refuse('an enum must not be empty');
      return this.#set(name, choices.map((choice) => this.#literal(json(choice))).join(' | '));
    }
    const either = schema['anyOf'] ?? schema['oneOf'];
    if (Array.isArray(either) && either.length > 0) {
      return this.#set(name, either.map((one, i) => this.rule(one, `${name}-${i}`, depth + 1)).join(' | '));
    }
    if (Array.isArray(schema['allOf'])) return this.rule(this.#merge(schema), name, depth + 1);
    const type = schema['type'] ?? impliedType(schema);
    if (Array.isArray(type)) {
      const kinds = [...new Set<unknown>(type)].map((one, i) => this.#typed(one, schema, `${name}-${i}`, depth));
      return this.#set(name, kinds.join(' | '));
    }
    return this.#typed(type, schema, name, depth);
  }

  #typed(type: unknown, schema: Record<string, unknown>, name: string, depth: number): string {
    switch (type) {
      case undefined:
        return 'value';
      case 'integer':
      case 'number':
      case 'boolean':
      case 'null':
        return type;
      case 'string':
        return this.#string(schema, name);
      case 'array':
        return this.#array(schema, name, depth);
      case 'object':
        return this.#object(schema, name, depth);
      default:
        throw refuse(`the schema has an unknown type ${json(type)}`);
    }
  }

  #string(schema: Record<string, unknown>, name: string): string {
    const repeat = repetition(schema['minLength'], schema['maxLength']);
    return repeat === '*' ? 'string' : this.#set(name, `"\\"" char${repeat} "\\""`);
  }

  #array(schema: Record<string, unknown>, name: string, depth: number): string {
    const fixed = schema['prefixItems'];
    if (Array.isArray(fixed)) {
      const items = fixed.map((item, i) => this.rule(item, `${name}-${i}`, depth + 1));
      return this.#set(name, `"[" ${items.join(' ", " ') || '""'} "]"`);
    }
    const item = this.rule(schema['items'], `${name}-i`, depth + 1);
    const least = count(schema['minItems']) ?? 0;
    const most = count(schema['maxItems']) ?? this.#bounds.items;
    if (most === 0) return this.#set(name, '"[]"');
    const more = repetition(Math.max(0, least - 1), most === null ? undefined : most - 1);
    const body = `${item} (", " ${item})${more}`;
    return this.#set(name, least === 0 ? `"[" (${body})? "]"` : `"[" ${body} "]"`);
  }

  #object(schema: Record<string, unknown>, name: string, depth: number): string {
    const properties = schema['properties'];
    const entries = isRecord(properties) ? Object.entries(properties) : [];
    if (entries.length === 0) {
      const extra = schema['additionalProperties'];
      if (extra === false) return this.#set(name, '"{}"');
      if (!isRecord(extra)) return schema['properties'] === undefined ? 'object' : this.#set(name, '"{}"');
      const value = this.rule(extra, `${name}-v`, depth + 1);
      return this.#set(name, `"{" (string ": " ${value} (", " string ": " ${value})*)? "}"`);
    }
    const names = asList(schema['required']);
    this.#work(entries.length + names.length);
    const required = new Set(names);
    const members = entries.map(([key, value], i) => ({
      text: `${this.#literal(`${json(key)}: `)} ${this.rule(value, `${name}-${i}`, depth + 1)}`,
      required: required.has(key),
    }));
    return this.#set(name, `"{" ${this.#members(members, name)} "}"`);
  }

  /** Rules `NAME-f2`: the members from 2 on, before any is written; `NAME-n2`: after at least one. */
  #members(members: readonly { text: string; required: boolean }[], name: string): string {
    let first = '""';
    let next = '""';
    for (let i = members.length - 1; i >= 0; i--) {
      const member = members[i];
      if (member === undefined) continue;
      const skipFirst = member.required ? '' : ` | ${first}`;
      const skipNext = member.required ? '' : ` | ${next}`;
      first = this.#set(`${name}-f${i}`, `${member.text} ${next}${skipFirst}`);
      next = this.#set(`${name}-n${i}`, `", " ${member.text} ${next}${skipNext}`);
    }
    return first;
  }

  #ref(ref: string, depth: number): string {
    const known = this.#refs.get(ref);
    if (known !== undefined) return known;
    let target: unknown = this.#root;
    if (!ref.startsWith('#')) throw refuse(`$ref ${json(ref)} points outside the schema`);
    for (const part of ref.slice(1).split('/').slice(1)) {
      const key = part.replaceAll('~1', '/').replaceAll('~0', '~');
      target = isRecord(target) && Object.hasOwn(target, key) ? target[key] : undefined;
    }
    if (target === undefined) throw refuse(`$ref ${json(ref)} has no target`);
    const name = `${this.#prefix}-ref${this.#refs.size}`;
    this.#refs.set(ref, name);
    const symbol = this.rule(target, `${name}-t`, depth + 1);
    // llama.cpp does not terminate on a rule that consists only of itself.
    if (symbol === name) throw refuse(`$ref ${json(ref)} refers to itself`);
    return this.#set(name, symbol);
  }

  #merge(schema: Record<string, unknown>): Record<string, unknown> {
    const { allOf, ...rest } = schema;
    const parts = asList(allOf);
    this.#work(Object.keys(schema).length);
    // The common case: pydantic wraps one $ref to add a description.
    if (parts.length === 1 && isRecord(parts[0]) && !('properties' in rest)) {
      this.#work(Object.keys(parts[0]).length);
      return { ...rest, ...parts[0] };
    }
    if (parts.length === 0) return { ...rest, type: 'object' };
    const properties = new Map(Object.entries(asRecord(rest['properties'])));
    const required = [asList(rest['required'])];
    for (const part of parts) {
      if (!isRecord(part) || !isRecord(part['properties'])) throw refuse('allOf supports only objects with properties');
      const entries = Object.entries(part['properties']);
      this.#work(1 + entries.length);
      for (const [key, value] of entries) properties.set(key, value);
      required.push(asList(part['required']));
    }
    return { ...rest, type: 'object', properties: Object.fromEntries(properties), required: required.flat() };
  }

  #checkStrict(schema: Record<string, unknown>): void {
    if (!this.#strict) return;
    const found = UNENFORCED.find((keyword) => keyword in schema);
    if (found !== undefined) throw refuse(`the keyword ${json(found)} can't be enforced`);
  }

  #set(name: string, body: string): string {
    this.#spent.rules += name.length + body.length;
    checkSize(this.#spent.rules);
    this.#add(name, body);
    return name;
  }

  #add(name: string, body: string): void {
    if (this.#rules.size >= RULES_MAX) throw refuse(`the schema needs more than ${RULES_MAX} rules`);
    this.#rules.set(name, body);
  }

  #literal(text: string): string {
    this.#spent.literals += text.length;
    checkSize(this.#spent.literals);
    return literal(text);
  }

  #work(steps: number): void {
    this.#spent.work += steps;
    if (this.#spent.work > WORK_MAX)
      throw refuse(`the schema has more than ${WORK_MAX} parts, or refers to them too often`);
  }
}

function checkSize(bytes: number): void {
  if (bytes > GRAMMAR_BYTES_MAX) throw refuse(`the schema needs a grammar of more than ${GRAMMAR_BYTES_MAX} bytes`);
}

export function literal(text: string): string {
  const escaped = text.replace(/[\\"\n\r\t\p{Cc}]/gu, (char) => {
    if (char === '\n') return '\\n';
    if (char === '\r') return '\\r';
    if (char === '\t') return '\\t';
    if (char === '"' || char === '\\') return `\\${char}`;
    return `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`;
  });
  return `"${escaped}"`;
}

function repetition(least: unknown, most: unknown): string {
  const min = count(least) ?? 0;
  const max = count(most);
  if (min > REPEAT_MAX) throw refuse(`a minimum above ${REPEAT_MAX} is not supported`);
  if (max !== null && max < min) throw refuse('a maximum is below its minimum');
  if (max === null || max > REPEAT_MAX) return min === 0 ? '*' : `{${min},}`;
  return `{${min},${max}}`;
}

function count(value: unknown): number | null {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 ? value : null;
}

function impliedType(schema: Record<string, unknown>): string | undefined {
  if ('properties' in schema) return 'object';
  if ('items' in schema || 'prefixItems' in schema) return 'array';
  return undefined;
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const asRecord = (value: unknown): Record<string, unknown> => (isRecord(value) ? value : {});
const asList = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);
const json = (value: unknown): string => JSON.stringify(value) ?? 'null';
const refuse = (message: string): EngineError => new EngineError('bad_request', message);
