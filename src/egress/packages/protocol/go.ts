/**
 * The module proxy protocol of Go, with the checksum database behind it. Pure.
 *
 *     /go/MODULE/@v/list   …/@v/VERSION.info|.mod|.zip   …/@latest
 *     /go/sumdb/sum.golang.org/supported|latest|lookup/MODULE@VERSION|tile/…
 *
 * Nothing is rewritten: the client checks modules against go.sum or the signed database.
 */
import { compile, matches } from '../../../base/text/glob.ts';
import { KIB } from '../../../base/units.ts';
import type { RelayRoute, Route } from './artifact.ts';

export const DATABASE = 'sum.golang.org';
const MODULE_CHARACTERS_MAX = 256;
const INFO_BYTES_MAX = 64 * KIB;
/** Capitals are escaped: `!x`. */
const ELEMENT = /^(?:[a-z0-9_~-]|![a-z])(?:[a-z0-9._~-]|![a-z])*$/;
const VERSION = /^[A-Za-z0-9_](?:[A-Za-z0-9._~+-]|![a-z]){0,127}$/;
/** A version, not a branch, so its content never changes. */
const FIXED = /^v[0-9]+\.[0-9]+\.[0-9]+(?:[-+][A-Za-z0-9.!+-]+)?$/;
const TILE = /^(?:8\/(?:[0-9]{1,2}|data)\/(?:x[0-9]{3}\/){0,6}[0-9]{3}(?:\.p\/[0-9]{1,3})?)$/;

/** @param segments below `/go/` */
export function goRoute(segments: readonly string[]): Route | undefined {
  if (segments[0] === 'sumdb') return sumdbRoute(segments.slice(1));
  const last = segments.at(-1) ?? '';
  if (last === '@latest') return moduleRoute(segments.slice(0, -1), '@latest', last);
  if (segments.at(-2) !== '@v') return undefined;
  return moduleRoute(segments.slice(0, -2), last, `@v/${last}`);
}

function moduleRoute(elements: readonly string[], file: string, tail: string): RelayRoute | undefined {
  const name = moduleName(elements);
  if (name === undefined) return undefined;
  const escaped = elements.join('/');
  const route = {
    kind: 'relay',
    ecosystem: 'go',
    index: 'go',
    name,
    path: `${escaped}/${tail}`,
    digest: null,
  } as const;
  const dynamic = { ...route, isImmutable: false, version: '', infoPath: null };
  if (file === 'list') return { ...dynamic, contentType: 'text/plain' };
  if (file === '@latest') {
    return { ...dynamic, contentType: 'application/json', infoPath: route.path };
  }
  const [, version = '', kind = ''] = /^(.+)\.(info|mod|zip)$/.exec(file) ?? [];
  if (!VERSION.test(version)) return undefined;
  return {
    ...route,
    version,
    isImmutable: FIXED.test(version),
    contentType: kind === 'zip' ? 'application/zip' : 'text/plain',
    infoPath: `${escaped}/@v/${version}.info`,
  };
}

/**
 * True if a pattern of GOPRIVATE or a similar list covers a module: a glob that is matched with as many leading
 * elements as it has.
 */
export function isCovered(module: string, patterns: readonly string[]): boolean {
  const elements = module.split('/');
  return patterns.some((text) => {
    const pattern = compile(text.replace(/\/+$/, ''), false);
    const count = text.replace(/\/+$/, '').split('/').length;
    return pattern !== null && matches(pattern, elements.slice(0, count).join('/'));
  });
}

/** Undefined if it is not a module path. */
function moduleName(elements: readonly string[]): string | undefined {
  const escaped = elements.join('/');
  const isPath = elements.length > 0 && elements.every((one) => ELEMENT.test(one));
  if (!isPath || escaped.length > MODULE_CHARACTERS_MAX) return undefined;
  return escaped.replace(/!([a-z])/g, (_all, letter: string) => letter.toUpperCase());
}

function sumdbRoute([database, ...rest]: readonly string[]): Route | undefined {
  if (database !== DATABASE) return undefined;
  // The empty name is no package, so no rule names it.
  const named = { ecosystem: 'go', index: 'sumdb', name: '' } as const;
  const [first = '', ...more] = rest;
  if (first === 'supported' && more.length === 0) {
    return { kind: 'static', ...named, page: () => ({ contentType: 'text/plain', body: '' }) };
  }
  const relay = { kind: 'relay', ...named, digest: null, version: '', infoPath: null } as const;
  const text = { ...relay, contentType: 'text/plain', path: rest.join('/') };
  if (first === 'latest' && more.length === 0) return { ...text, isImmutable: false };
  if (first === 'tile' && TILE.test(more.join('/'))) return { ...text, isImmutable: true };
  if (first !== 'lookup') return undefined;
  const [, module = '', version = ''] = /^(.+)@([^@/]+)$/.exec(more.join('/')) ?? [];
  const name = moduleName(module.split('/'));
  if (name === undefined || !VERSION.test(version)) return undefined;
  // The database would fetch a module that it does not know, so the policy of the name applies.
  return { ...text, name, isImmutable: true };
}

/** Time of a version in milliseconds since 1970; `null` if it has none. */
export function timeOfInfo(body: Buffer): number | null {
  if (body.length > INFO_BYTES_MAX) return null;
  try {
    const parsed: unknown = JSON.parse(body.toString('utf8'));
    const time = typeof parsed === 'object' && parsed !== null && 'Time' in parsed ? parsed.Time : '';
    const atMs = typeof time === 'string' ? Date.parse(time) : Number.NaN;
    return Number.isFinite(atMs) ? atMs : null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}
