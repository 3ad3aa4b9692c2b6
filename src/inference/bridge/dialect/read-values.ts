/** Reads values of checked requests, and what several APIs have in common. Pure. */

import { accepted, type Checked, refused } from '../../../base/http/refusal.ts';
import { isJsonObject, type JsonObject } from '../json-body.ts';
import type { Message, Part } from './model.ts';

export const IMAGE_TYPES: ReadonlySet<unknown> = new Set(['image/jpeg', 'image/png', 'image/gif', 'image/webp']);
/** A single expression for the whole text would fail: V8 gives up on those with megabytes. */
const NOT_BASE64 = /[^A-Za-z0-9+/=]/;
export const GAP = '\n\n';
const SHOWN_CHARACTERS_MAX = 60;

/** An error in the request, thrown from any depth; `checkedRead` turns it into a refusal. */
export class Fault extends Error {
  readonly path: string;
  readonly code: string;

  constructor(path: string, why: string, code = 'invalid_value') {
    super(`${path}: ${why}`);
    this.path = path;
    this.code = code;
  }
}

/** Returns the result of `read`, or a refusal for its `Fault`. */
export function checkedRead<T>(read: () => T): Checked<T> {
  try {
    return accepted(read());
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    return refused(400, error.code, `${error.message}.`, { param: error.path });
  }
}

/** Merges neighboring messages of the same role, which templates of many models refuse. */
export function mergeNeighbors(messages: readonly Message[]): readonly Message[] {
  const merged: { readonly role: Message['role']; readonly parts: Part[] }[] = [];
  for (const { role, parts } of messages) {
    const last = merged.at(-1);
    if (last?.role === role) for (const part of parts) last.parts.push(part);
    else merged.push({ role, parts: [...parts] });
  }
  return merged;
}

/** Wraps a system message after the beginning, which templates of many models refuse. */
export const asUserText = (said: string): string => `<system>\n${said}\n</system>`;

export function base64(value: unknown, path: string): string {
  const encoded = text(value, path).replaceAll(/\s/g, '');
  const padding = encoded.indexOf('=');
  if (NOT_BASE64.test(encoded) || (padding >= 0 && padding < encoded.length - 2)) {
    throw new Fault(path, 'is not base64');
  }
  return encoded;
}

export const isGiven = (value: unknown): boolean => value !== undefined && value !== null;
export const shown = (value: unknown): string => String(JSON.stringify(value)).slice(0, SHOWN_CHARACTERS_MAX);

export function object(value: unknown, path: string): JsonObject {
  if (!isJsonObject(value)) throw new Fault(path, 'must be an object');
  return value;
}

export function list(value: unknown, path: string): readonly unknown[] {
  if (!Array.isArray(value)) throw new Fault(path, 'must be a list');
  return value;
}

export function text(value: unknown, path: string): string {
  if (typeof value !== 'string') throw new Fault(path, 'must be a string');
  return value;
}

export const optionalList = (value: unknown, path: string): readonly unknown[] =>
  isGiven(value) ? list(value, path) : [];
export const optionalText = (value: unknown, path: string): string | undefined =>
  isGiven(value) ? text(value, path) : undefined;

export function optionalTexts(value: unknown, path: string): readonly string[] {
  if (typeof value === 'string') return [value];
  return optionalList(value, path).map((one, i) => text(one, `${path}.${i}`));
}

/** A whole number, `least` or more: servers read a text, a fraction or a list in ways of their own. */
export function optionalLimit(value: unknown, path: string, least = 1): number | undefined {
  const limit = optionalNumber(value, path);
  if (limit === undefined || (Number.isSafeInteger(limit) && limit >= least)) return limit;
  throw new Fault(path, `must be a whole number, ${least} or more`);
}

export function optionalFlag(value: unknown, path: string): boolean | undefined {
  if (!isGiven(value)) return undefined;
  if (typeof value !== 'boolean') throw new Fault(path, 'must be true or false');
  return value;
}

export function optionalNumber(value: unknown, path: string): number | undefined {
  if (!isGiven(value)) return undefined;
  if (typeof value !== 'number') throw new Fault(path, 'must be a number');
  return value;
}
