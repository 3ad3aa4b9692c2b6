import type { z } from 'zod';
import { SandboxError } from '../errors.ts';
import type { ReadOnly } from './values.ts';

/**
 * Checks a value of a library's caller, which may be JavaScript. A field that is `undefined` is omitted.
 * @param field the value's path in the request; empty for the request itself
 * @throws SandboxError `spec_invalid`, which names the field and never has a value of a secret
 */
export function parse<T>(schema: z.ZodType<T>, value: unknown, field = ''): ReadOnly<T> {
  return parseJson(schema, withoutUndefined(value), field);
}

/** The same for a value that was JSON, which has no field that is `undefined`: it isn't copied before it is checked. */
export function parseJson<T>(schema: z.ZodType<T>, value: unknown, field = ''): ReadOnly<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data as ReadOnly<T>;
  const [issue] = result.error.issues;
  // zod reports at least one.
  if (issue === undefined) throw result.error;
  // A key's own fault says more than that the key is invalid, and the key itself may be anything.
  const isKey = issue.code === 'invalid_key';
  const [{ message } = issue] = isKey ? issue.issues : [];
  const path = isKey ? issue.path.slice(0, -1) : issue.path;
  const where = [field, ...path.map((part) => String(part).slice(0, 80))].filter((part) => part !== '').join('.');
  throw new SandboxError('spec_invalid', `sandbox option ${where}: ${message}`);
}

function withoutUndefined(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutUndefined);
  if (typeof value !== 'object' || value === null) return value;
  const given = Object.entries(value).filter(([, one]) => one !== undefined);
  return Object.fromEntries(given.map(([name, one]) => [name, withoutUndefined(one)]));
}
