/**
 * A JSON body that is checked here and parsed again by the upstream. It must mean the same to both: valid UTF-8, no
 * duplicate key, bounded depth and size. Edits replace the bytes of a top-level member and leave all others unchanged:
 * numbers keep their digits, strings their escapes.
 */
import { isUtf8 } from 'node:buffer';
import { assert } from '../../base/assert.ts';
import { accepted, type Checked, refused } from '../../base/http/refusal.ts';
import type { BridgeLimits } from './limits.ts';

export type JsonObject = { readonly [key: string]: unknown };

export interface JsonBody {
  readonly value: JsonObject;
  readonly layout: JsonLayout;
}

export interface JsonLayout {
  readonly members: ReadonlyMap<string, Span>;
  readonly end: number;
}

export type JsonLimits = Pick<
  BridgeLimits,
  'jsonDepthMax' | 'jsonContainersMax' | 'jsonValuesMax' | 'jsonKeysMax' | 'jsonMembersMax'
>;

export function jsonLimits(limits: BridgeLimits): JsonLimits {
  const { jsonDepthMax, jsonContainersMax, jsonValuesMax, jsonKeysMax, jsonMembersMax } = limits;
  return { jsonDepthMax, jsonContainersMax, jsonValuesMax, jsonKeysMax, jsonMembersMax };
}

export function parseJsonBody(bytes: Buffer, limits: JsonLimits): Checked<JsonBody> {
  if (!isUtf8(bytes)) return invalid('it is not UTF-8');
  const scan = scanJson(bytes, limits);
  if (!scan.ok) return scan;
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch (error) {
    return invalid(error instanceof SyntaxError ? 'it does not parse' : String(error));
  }
  if (!isJsonObject(value)) return invalid('it is not an object');
  // Parsers differ in which of two equal keys wins, so each could see another value.
  if (countKeys(value) !== scan.value.keys) return invalid('a key occurs twice in one object');
  const { members } = scan.value;
  return accepted({ value, layout: { members, end: bytes.lastIndexOf(CLOSE_OBJECT) } });
}

export function layoutOf(bytes: Buffer): JsonLayout {
  const scan = scanJson(bytes, UNLIMITED);
  assert(scan.ok, 'no limit');
  return { members: scan.value.members, end: bytes.lastIndexOf(CLOSE_OBJECT) };
}

const UNLIMITED: JsonLimits = {
  jsonDepthMax: Number.POSITIVE_INFINITY,
  jsonContainersMax: Number.POSITIVE_INFINITY,
  jsonValuesMax: Number.POSITIVE_INFINITY,
  jsonKeysMax: Number.POSITIVE_INFINITY,
  jsonMembersMax: Number.POSITIVE_INFINITY,
};

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Parses an object; undefined if `text` is anything else. */
export function parseObject(text: string): JsonObject | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return isJsonObject(value) ? value : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** Byte range of a top-level member's value, including the white space around it. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

interface Scan {
  readonly keys: number;
  readonly members: ReadonlyMap<string, Span>;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const COLON = 0x3a;
const OPEN_ARRAY = 0x5b;
const CLOSE_ARRAY = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;

/**
 * Scans the structural bytes once, before anything is allocated for the document. The result is valid only if the
 * document parses.
 */
function scanJson(bytes: Buffer, limits: JsonLimits): Checked<Scan> {
  const members = new Map<string, Span>();
  let depth = 0;
  let keys = 0;
  let containers = 0;
  let values = 1;
  let key: Span | undefined;
  let start = -1;
  const closeMember = (end: number): void => {
    if (depth === 1 && key !== undefined && start >= 0) {
      members.set(textOf(bytes, key), { start, end });
    }
    key = undefined;
    start = -1;
  };
  for (let i = 0; i < bytes.length; i += 1) {
    switch (bytes[i]) {
      case QUOTE: {
        const end = stringEnd(bytes, i);
        if (depth === 1 && start < 0) key = { start: i, end };
        i = end - 1;
        break;
      }
      case OPEN_ARRAY:
      case OPEN_OBJECT:
        depth += 1;
        containers += 1;
        if (depth > limits.jsonDepthMax) return tooDeep(limits);
        if (containers > limits.jsonContainersMax) return tooManyContainers(limits);
        break;
      case CLOSE_ARRAY:
      case CLOSE_OBJECT:
        if (depth === 1) closeMember(i);
        depth -= 1;
        break;
      case COMMA:
        values += 1;
        if (depth === 1) closeMember(i);
        break;
      case COLON:
        keys += 1;
        if (depth === 1) start = i + 1;
        break;
      default:
    }
    if (values > limits.jsonValuesMax) return tooMany(limits);
    if (keys > limits.jsonKeysMax) return tooManyKeys(limits);
    if (members.size > limits.jsonMembersMax) return tooManyMembers(limits);
  }
  return accepted({ keys, members });
}

/** Index after the closing quote of the string that begins at `start`. */
function stringEnd(bytes: Buffer, start: number): number {
  let quote = bytes.indexOf(QUOTE, start + 1);
  while (quote >= 0) {
    let first = quote;
    while (bytes[first - 1] === BACKSLASH) first -= 1;
    if ((quote - first) % 2 === 0) return quote + 1;
    quote = bytes.indexOf(QUOTE, quote + 1);
  }
  return bytes.length;
}

function textOf(bytes: Buffer, span: Span): string {
  const raw = bytes.toString('utf8', span.start + 1, span.end - 1);
  if (!raw.includes('\\')) return raw;
  try {
    return String(JSON.parse(`"${raw}"`));
  } catch (error) {
    // The whole document will be refused for the same reason.
    return error instanceof SyntaxError ? raw : '';
  }
}

/** Iterative, since the caller's stack depth is unknown. */
function countKeys(root: JsonObject): number {
  const open: unknown[] = [root];
  let keys = 0;
  for (let value = open.pop(); value !== undefined; value = open.pop()) {
    const children = Array.isArray(value) ? value : Object.values(value as object);
    if (!Array.isArray(value)) keys += children.length;
    for (const child of children) {
      if (typeof child === 'object' && child !== null) open.push(child);
    }
  }
  return keys;
}

/** Returns the bytes in pieces, with top-level members replaced or added. Copies none of them. */
export function editJson(
  bytes: Buffer,
  { members, end }: JsonLayout,
  changes: Readonly<Record<string, unknown>>,
): readonly Buffer[] {
  if (Object.keys(changes).length === 0) return [bytes];
  const replaced: { span: Span; text: string }[] = [];
  let added = '';
  for (const [name, value] of Object.entries(changes)) {
    const span = members.get(name);
    if (span !== undefined) replaced.push({ span, text: JSON.stringify(value) });
    else added += `,${JSON.stringify(name)}:${JSON.stringify(value)}`;
  }
  replaced.sort((a, b) => a.span.start - b.span.start);
  const parts: Buffer[] = [];
  let position = 0;
  for (const { span, text } of replaced) {
    parts.push(bytes.subarray(position, span.start), Buffer.from(text));
    position = span.end;
  }
  parts.push(bytes.subarray(position, end));
  parts.push(Buffer.from(members.size === 0 ? added.slice(1) : added), bytes.subarray(end));
  return parts;
}

export function withoutUndefined(object: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined));
}

function invalid(why: string): Checked<never> {
  return refused(400, 'invalid_json', `The body is not a valid JSON object: ${why}.`);
}

const tooDeep = (limits: JsonLimits): Checked<never> =>
  invalid(`it is nested more than ${limits.jsonDepthMax} levels deep`);

const tooManyContainers = (limits: JsonLimits): Checked<never> =>
  invalid(`it has more than ${limits.jsonContainersMax} objects and arrays`);

const tooManyKeys = (limits: JsonLimits): Checked<never> => invalid(`it has more than ${limits.jsonKeysMax} keys`);

const tooManyMembers = (limits: JsonLimits): Checked<never> =>
  invalid(`it has more than ${limits.jsonMembersMax} members at its top level`);

const tooMany = (limits: JsonLimits): Checked<never> => invalid(`it has more than ${limits.jsonValuesMax} values`);
