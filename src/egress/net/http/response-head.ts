/**
 * Determines from its head how the body of an HTTP/1.1 answer is framed (RFC 9112 section 6.3). Lenient, unlike
 * `head.ts`. Pure.
 */
import type { BodyFraming, FramerRules } from './framer.ts';

export const RESPONSE_RULES: FramerRules = {
  isStrict: false,
  headBytesMax: 64 * 1024,
  headLinesMax: Number.POSITIVE_INFINITY,
  chunkLineBytesMax: 4 * 1024,
  chunkEndBytesMax: 4 * 1024,
  trailerBytesMax: 64 * 1024,
  chunkLine: /^([0-9a-f]{1,12})\s*(?:;|$)/i,
};

/** 100 to 999; undefined if it is no HTTP/1.0 or 1.1 answer. */
export function parseStatus(statusLine: string): number | undefined {
  const status = Number(/^HTTP\/1\.[01] (\d{3})(?: |$)/.exec(statusLine)?.[1]);
  return status >= 100 ? status : undefined;
}

/** The body framing of a final answer. @param method of the request @returns undefined if its end can't be found */
export function responseFraming(status: number, method: string, fields: readonly string[]): BodyFraming | undefined {
  if (isBodiless(status, method)) return { kind: 'none' };
  const codings = fieldValues(fields, 'transfer-encoding');
  const lengths = fieldValues(fields, 'content-length');
  if (codings.length + lengths.length > 1) return undefined;
  const [coding] = codings;
  if (coding !== undefined) return coding === 'chunked' ? { kind: 'chunked' } : undefined;
  const [length] = lengths;
  if (length === undefined) return { kind: 'until_close' };
  if (!/^\d{1,15}$/.test(length)) return undefined;
  return Number(length) === 0 ? { kind: 'none' } : { kind: 'length', bytes: Number(length) };
}

/** True if the answer has no body, whatever its fields say. */
export function isBodiless(status: number, method: string): boolean {
  return method === 'HEAD' || status === 204 || status === 304;
}

/** @param fields whole lines @returns the values in lower case */
export function fieldValues(fields: readonly string[], name: string): string[] {
  return fields.flatMap((field) => {
    const colon = field.indexOf(':');
    if (field.slice(0, Math.max(0, colon)).toLowerCase() !== name) return [];
    const value = field.slice(colon + 1);
    return [value.trim().toLowerCase()];
  });
}
