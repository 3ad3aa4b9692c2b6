/**
 * Splits the target of a request into segments. Refuses anything that two programs could read differently: query
 * strings, empty and dot segments, encoded separators, characters outside a small set. Pure.
 */
import { accepted, type Checked, refused } from './refusal.ts';

const TARGET_CHARACTERS_MAX = 1024;
const SEGMENTS_MAX = 32;
/**
 * Decoded characters of package paths: `@` for npm scopes, `!` for escaped capitals of Go, `+` `~` `:` for versions.
 */
const SEGMENT = /^[A-Za-z0-9@!+~:._-]+$/;
/** npm writes a scope and its name as one segment: `@scope%2fname`. */
const SCOPED = /^@[^/]+\/[^/]+$/;

export interface RequestTarget {
  /** Host of a request in absolute form, as apt sends it to a proxy; `null` for the gateway's own. */
  readonly host: string | null;
  /** Decoded. The last one is empty if the path ends with a slash. */
  readonly segments: readonly string[];
}

export function parseTarget(target: string): Checked<RequestTarget> {
  if (target.length > TARGET_CHARACTERS_MAX) return bad('The path is too long.');
  if (target.includes('?') || target.includes('#')) {
    return bad('Package requests have no query string; search and other services are not served.');
  }
  const absolute = /^http:\/\/([a-z0-9.-]{1,253})(\/.*)$/.exec(target);
  const host = absolute?.[1] ?? null;
  const path = absolute?.[2] ?? target;
  if (!path.startsWith('/')) return bad('The request target is not a path.');
  const raw = path.slice(1).split('/');
  if (raw.length > SEGMENTS_MAX) return bad('The path has too many segments.');
  const segments: string[] = [];
  for (const [index, part] of raw.entries()) {
    const isLast = index === raw.length - 1;
    const segment = decodeSegment(part);
    if (segment === undefined || (segment === '' && !isLast)) {
      return bad('The path has an empty, encoded or invalid segment.');
    }
    segments.push(segment);
  }
  return accepted({ host, segments });
}

/** Undefined if it is not a segment of a package path. */
function decodeSegment(text: string): string | undefined {
  if (text === '') return text;
  let decoded: string;
  try {
    decoded = decodeURIComponent(text);
  } catch (error) {
    if (error instanceof URIError) return undefined;
    throw error;
  }
  if (SCOPED.test(decoded)) {
    return decoded.split('/').every(isSegment) ? decoded : undefined;
  }
  return isSegment(decoded) ? decoded : undefined;
}

function isSegment(text: string): boolean {
  return SEGMENT.test(text) && text !== '.' && text !== '..';
}

const bad = (message: string) => refused(400, 'bad_request', message);
