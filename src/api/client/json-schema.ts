/** The part of JSON Schema that `spec/openapi.json` uses for answers. Pure. */

export interface AnswerSchema {
  readonly $ref?: string;
  readonly type?: string | readonly string[];
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly minimum?: number;
  readonly maximum?: number;
  readonly pattern?: string;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly items?: AnswerSchema;
  readonly maxItems?: number;
  readonly properties?: Readonly<Record<string, AnswerSchema>>;
  readonly required?: readonly string[];
  /** A schema for the values of a record; `false` drops them. */
  readonly additionalProperties?: AnswerSchema | boolean;
  readonly propertyNames?: AnswerSchema;
  readonly anyOf?: readonly AnswerSchema[];
  readonly oneOf?: readonly AnswerSchema[];
}

/** By name, below `#/components/schemas/`. */
export type Schemas = Readonly<Record<string, AnswerSchema>>;

export const MISMATCH: unique symbol = Symbol('mismatch');

/** Returns the value without unnamed fields, or `MISMATCH`. */
export function conform(schema: AnswerSchema, value: unknown, schemas: Schemas): unknown {
  const { $ref, anyOf, oneOf } = schema;
  if ($ref !== undefined) {
    const target = schemas[$ref.replace('#/components/schemas/', '')];
    return target === undefined ? MISMATCH : conform(target, value, schemas);
  }
  const { type } = schema;
  const byType = typeof type === 'object' ? type.map((one) => ({ ...schema, type: one })) : undefined;
  const options = anyOf ?? oneOf ?? byType;
  if (options !== undefined) return conformToOne(options, value, schemas);
  if (schema.const !== undefined && value !== schema.const) return MISMATCH;
  if (schema.enum !== undefined && !schema.enum.includes(value)) return MISMATCH;
  switch (type) {
    case 'object':
      return isRecord(value) ? conformObject(schema, value, schemas) : MISMATCH;
    case 'array':
      return Array.isArray(value) ? conformArray(schema, value, schemas) : MISMATCH;
    case 'string':
      return typeof value === 'string' && isStringOf(schema, value) ? value : MISMATCH;
    case 'integer':
      return Number.isSafeInteger(value) && isInRange(schema, value as number) ? value : MISMATCH;
    case 'number':
      return Number.isFinite(value) && isInRange(schema, value as number) ? value : MISMATCH;
    case 'boolean':
      return typeof value === 'boolean' ? value : MISMATCH;
    case 'null':
      return value === null ? value : MISMATCH;
    default:
      return value;
  }
}

function conformToOne(options: readonly AnswerSchema[], value: unknown, schemas: Schemas): unknown {
  for (const option of options) {
    const found = conform(option, value, schemas);
    if (found !== MISMATCH) return found;
  }
  return MISMATCH;
}

function conformObject(
  { properties = {}, required = [], additionalProperties, propertyNames }: AnswerSchema,
  value: Readonly<Record<string, unknown>>,
  schemas: Schemas,
): unknown {
  if (!required.every((name) => Object.hasOwn(value, name))) return MISMATCH;
  const kept: [string, unknown][] = [];
  for (const [name, field] of Object.entries(value)) {
    const rest = typeof additionalProperties === 'object' ? additionalProperties : undefined;
    const schema = Object.hasOwn(properties, name) ? properties[name] : rest;
    if (schema === undefined) continue;
    if (propertyNames !== undefined && conform(propertyNames, name, schemas) === MISMATCH) {
      return MISMATCH;
    }
    const found = conform(schema, field, schemas);
    if (found === MISMATCH) return MISMATCH;
    kept.push([name, found]);
  }
  return Object.fromEntries(kept);
}

function conformArray(
  { items = {}, maxItems = Infinity }: AnswerSchema,
  value: readonly unknown[],
  schemas: Schemas,
): unknown {
  if (value.length > maxItems) return MISMATCH;
  const found = value.map((item) => conform(items, item, schemas));
  return found.includes(MISMATCH) ? MISMATCH : found;
}

function isStringOf({ pattern, minLength = 0, maxLength = Infinity }: AnswerSchema, value: string) {
  const isLong = value.length >= minLength && value.length <= maxLength;
  return isLong && (pattern === undefined || new RegExp(pattern).test(value));
}

const isInRange = ({ minimum = -Infinity, maximum = Infinity }: AnswerSchema, value: number) =>
  value >= minimum && value <= maximum;

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
