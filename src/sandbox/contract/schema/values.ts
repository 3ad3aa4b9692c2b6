/**
 * Values that the schemas of this folder share. The folder is the contract of requests and of what they create: the core
 * and the REST server check requests with it, types are inferred from it, and `spec/openapi.json`, against which
 * `src/api/client` checks answers, is generated from it. Import only its types into what commands load: zod takes longer
 * to load than all modules of `neurovisor ls`.
 *
 * Requests are strict: an unknown field is an error that names it. Answers may grow: a client drops unknown fields.
 */
import { z } from 'zod';
import { parseSandboxId } from '../../../base/ids.ts';
import { isAtMost } from '../../../base/text/characters.ts';
import {
  NAME_FAULT,
  type Range,
  REQUEST_LIMITS,
  SANDBOX_NAME,
  SANDBOX_NAME_FAULT,
  SANDBOX_REFERENCE,
  SNAPSHOT_NAME,
  SNAPSHOT_REFERENCE,
  STORED_SECRET_FAULT,
  STORED_SECRET_REFERENCE,
  TEMPLATE_NAME,
} from '../limits.ts';

/** A schema's value, read-only at every depth. */
export type ReadOnly<T> = T extends readonly (infer Item)[]
  ? readonly ReadOnly<Item>[]
  : T extends object
    ? { readonly [Key in keyof T]: ReadOnly<T[Key]> }
    : T;

/** The schema, with values that are read-only at every depth. */
export const readOnly = <T extends z.ZodType>(schema: T): z.ZodType<ReadOnly<z.infer<T>>> =>
  schema as z.ZodType<ReadOnly<z.infer<T>>>;

/** `params` of a check that JSON Schema can't express: its fault is `spec_invalid`, not one of the request's form. */
export const CONTENT = { isContent: true } as const;

/** Limits characters as JSON Schema counts them: a character beyond the BMP is one, not two. */
export const text = (charactersMax: number) =>
  z
    .string()
    .refine((value) => isAtMost(value, charactersMax), { error: `expected at most ${charactersMax} characters` })
    .meta({ maxLength: charactersMax });

/** A number in a range, with one message for every fault, which says what is valid. */
export function amount(range: Range) {
  const error = outside('a number', range);
  return z.number({ error }).min(range.min, { error }).max(range.max, { error });
}

/** The same for whole numbers. */
export function whole(range: Range) {
  const error = outside('a whole number', range);
  return z.number({ error }).int({ error }).min(range.min, { error }).max(range.max, { error });
}

const outside =
  (what: string, { min, max }: Range) =>
  ({ input }: { readonly input?: unknown }): string =>
    `expected ${what} from ${min} to ${max}${typeof input === 'number' ? `, not ${input}` : ''}`;

interface Bounded {
  readonly most: number;
}

/**
 * Refuses too many items before it looks at one, as zod does, and stops at the first wrong one. zod would describe
 * every one of a million wrong items, which blocks the process.
 */
const BoundedArray = z.core.$constructor<z.ZodArray, z.core.$ZodArrayDef & Bounded>('BoundedArray', (inst, def) => {
  z.ZodArray.init(inst, def);
  const { parse } = inst._zod;
  inst._zod.parse = (payload, context) => {
    const { value } = payload;
    if (!Array.isArray(value) || value.length > def.most) return parse(payload, context);
    const items: unknown[] = [];
    payload.value = items;
    for (const [index, item] of value.entries()) {
      // No schema of a request is asynchronous.
      const checked = def.element._zod.run({ value: item, issues: [] }, context) as z.core.ParsePayload;
      items.push(checked.value);
      payload.issues.push(...z.core.util.prefixIssues(index, checked.issues));
      if (payload.issues.length > 0) break;
    }
    return payload;
  };
});

/** The same for pairs, of which zod knows no maximum. Answers are not counted. */
const BoundedRecord = z.core.$constructor<z.ZodRecord, z.core.$ZodRecordDef & Bounded>('BoundedRecord', (inst, def) => {
  z.ZodRecord.init(inst, def);
  const { parse, processJSONSchema } = inst._zod;
  inst._zod.processJSONSchema = (context, json, params) => {
    processJSONSchema?.(context, json, params);
    json.maxProperties = def.most;
  };
  inst._zod.parse = (payload, context) => {
    const { value } = payload;
    if (!z.core.util.isPlainObject(value) || context.direction === 'backward') return parse(payload, context);
    const keys = Object.keys(value);
    if (keys.length > def.most) {
      const message = `expected at most ${def.most} pairs`;
      payload.issues.push({ code: 'custom', message, input: value, inst, continue: false });
      return payload;
    }
    const pairs: Record<string, unknown> = {};
    payload.value = pairs;
    for (const key of keys) {
      if (key === '__proto__') continue;
      const name = def.keyType._zod.run({ value: key, issues: [] }, context) as z.core.ParsePayload<string>;
      if (name.issues.length > 0) {
        const issues = name.issues.map((issue) => z.core.util.finalizeIssue(issue, context, z.core.config()));
        payload.issues.push({ code: 'invalid_key', origin: 'record', issues, input: key, path: [key], inst });
        break;
      }
      const own = def.valueType._zod.run({ value: value[key], issues: [] }, context) as z.core.ParsePayload;
      pairs[name.value] = own.value;
      payload.issues.push(...z.core.util.prefixIssues(key, own.issues));
      if (payload.issues.length > 0) break;
    }
    return payload;
  };
});

/** A list of at most `most` items. */
export function list<T extends z.ZodType>(item: T, most: number): z.ZodArray<T> {
  const made: unknown = new BoundedArray({ type: 'array', element: item, most });
  return (made as z.ZodArray<T>).max(most, { error: `expected at most ${most}` });
}

/** A record of at most `most` pairs. */
export function record<Key extends z.ZodType<string, string>, Value extends z.ZodType>(
  key: Key,
  value: Value,
  most: number,
): z.ZodRecord<Key, Value> {
  const made: unknown = new BoundedRecord({ type: 'record', keyType: key, valueType: value, most });
  return made as z.ZodRecord<Key, Value>;
}

/** An error that shows the text: `"TEXT" is not …`. Not for secrets. */
export const notA =
  (what: string) =>
  ({ input }: { readonly input?: unknown }): string =>
    `"${String(input).slice(0, 80)}" is not ${what}`;

const nameError = { error: NAME_FAULT };
export const snapshotName = z.string().regex(SNAPSHOT_NAME, nameError).describe('Name of a snapshot.');
export const snapshotReference = z
  .string()
  .regex(SNAPSHOT_REFERENCE, nameError)
  .describe('Id or name of a snapshot; for the operator, a tenant’s is `TENANT/NAME`.');
export const volumeName = z.string().regex(SNAPSHOT_NAME, nameError).describe('Name of a volume.');
/** As the host keeps it. */
export const volumeReference = z
  .string()
  .regex(SNAPSHOT_REFERENCE, nameError)
  .describe('Name of a volume; for the operator, a tenant’s is `TENANT/NAME`.');
/** As the host keeps it. */
export const storedSecret = z
  .string()
  .regex(STORED_SECRET_REFERENCE, { error: STORED_SECRET_FAULT })
  .describe('Name of a stored secret; for the operator, a tenant’s is `TENANT/NAME`.');
export const templateName = z.string().regex(TEMPLATE_NAME, nameError).describe('Name of a template.');

export const metadata = record(
  text(REQUEST_LIMITS.metadataKeyCharactersMax).min(1),
  text(REQUEST_LIMITS.metadataValueCharactersMax),
  REQUEST_LIMITS.metadataPairsMax,
).meta({ id: 'Metadata', description: 'Labels of the owner’s choice; the list can be filtered by them.' });

export const count = z.number().int().nonnegative();
export const ms = z.number();
export const wallMs = z.number().describe('Milliseconds since 1970.');
export const sandboxId = z
  .string()
  .regex(/^[a-z0-9]{20}$/, { error: 'expected 20 characters of a-z and 0-9' })
  .describe('Id of a sandbox.');
const sandboxNameOf = (pattern: RegExp) =>
  z
    .string()
    .regex(pattern, { error: SANDBOX_NAME_FAULT })
    .refine((name) => parseSandboxId(name) === undefined, { error: SANDBOX_NAME_FAULT, params: CONTENT });
export const sandboxName = sandboxNameOf(SANDBOX_NAME);
/** As the host keeps it. */
export const sandboxNameOnHost = sandboxNameOf(SANDBOX_REFERENCE);
export const sandboxReference = z
  .string()
  .regex(SANDBOX_REFERENCE, { error: 'expected the id or name of a sandbox' })
  .describe('Id or name of a sandbox; for the operator, a tenant’s name is `TENANT/NAME`.');
