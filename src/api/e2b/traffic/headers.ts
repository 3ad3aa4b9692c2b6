/**
 * Headers between clients and programs in sandboxes (RFC 9110, section 7.6). Each connection has its own framing:
 * headers about one side's connection never reach the other. Pure.
 */

/** Names and values alternate, as received. */
export type RawHeaders = readonly string[];

/** Headers of one connection, besides those that `Connection` names. */
const HOP_BY_HOP: ReadonlySet<string> = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authentication-info',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'http2-settings',
]);
/** Part of our own interface, or answered by us. */
const NOT_FOR_GUESTS: ReadonlySet<string> = new Set([
  'e2b-sandbox-id',
  'e2b-sandbox-port',
  'e2b-traffic-access-token',
  'expect',
  'content-length',
]);
/** A client could make a program believe that its request came from elsewhere. E2B removes them, too. */
const CLAIMS: ReadonlySet<string> = new Set(['forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto']);
/** Fields that trailers must not have (RFC 9110, section 6.5.1), and fields that a client may take for headers. */
const NOT_IN_TRAILERS: ReadonlySet<string> = new Set([
  'content-length',
  'content-encoding',
  'content-type',
  'content-range',
  'host',
  'set-cookie',
  'authorization',
  'location',
  'cache-control',
  'expires',
]);
/** A request needs these, even if `Connection` names them to have them removed. */
const NEVER_NAMED: ReadonlySet<string> = new Set(['host', 'content-length', 'content-type']);

export interface RequestRules {
  /** Replaces `Host`; `null` keeps the client's. */
  readonly host: string | null;
  /** The protocol to upgrade to, if any. */
  readonly upgrade: string | null;
  /** True for the sandbox's envd token, which its programs do not need. */
  readonly isSecret: (name: string, value: string) => boolean;
}

export function requestHeaders(raw: RawHeaders, rules: RequestRules): string[] {
  const dropped = named(raw);
  const kept: string[] = [];
  let host: string | null = null;
  for (const [name, value] of pairs(raw)) {
    const lower = name.toLowerCase();
    if (lower === 'host') host ??= value;
    else if (HOP_BY_HOP.has(lower) || dropped.has(lower)) continue;
    else if (NOT_FOR_GUESTS.has(lower) || CLAIMS.has(lower)) continue;
    else if (!rules.isSecret(lower, value)) kept.push(name, value);
  }
  const hosts = [...(host === null && rules.host === null ? [] : ['Host', rules.host ?? host ?? ''])];
  if (rules.host !== null && host !== null) hosts.push('X-Forwarded-Host', host);
  const upgrade = rules.upgrade === null ? [] : ['Connection', 'Upgrade', 'Upgrade', rules.upgrade];
  return [...hosts, ...kept, ...upgrade];
}

/**
 * Headers for the client. `Content-Length` stays only if the parser found a body of that length, or there is none by
 * definition.
 */
export function answerHeaders(raw: RawHeaders, status: number): string[] {
  const dropped = named(raw);
  const hasNoLength = status === 204 || status < 200;
  const kept: string[] = [];
  for (const [name, value] of pairs(raw)) {
    const lower = name.toLowerCase();
    if (HOP_BY_HOP.has(lower) || dropped.has(lower)) continue;
    if (lower === 'content-length' && (hasNoLength || !/^\d{1,15}$/.test(value))) continue;
    kept.push(name, value);
  }
  return kept;
}

export function trailers(raw: RawHeaders): [string, string][] {
  return [...pairs(raw)].filter(([name]) => {
    const lower = name.toLowerCase();
    return !(HOP_BY_HOP.has(lower) || NOT_IN_TRAILERS.has(lower) || NOT_FOR_GUESTS.has(lower) || CLAIMS.has(lower));
  });
}

/** A parameter has only one way to match, so the time grows linearly with the length. */
const LINK = /^<[^>]*>(?:\s*;\s*[^;"\s=]+(?:=(?:"[^;"\s]*"|[^;"\s]*))?)*$/;

/**
 * The valid links of a hint (103), one by one. Node checks them again by a pattern that takes hours for some invalid
 * ones: a program could stop the daemon with one.
 */
export const hintLinks = (link: string): string[] => link.split(/,\s*(?=<)/).filter((one) => LINK.test(one));

/** A phrase that HTTP allows; undefined for the usual one of the status. */
export const reasonPhrase = (text: string | undefined): string | undefined =>
  text !== undefined && /^[\t\x20-\x7e]{1,128}$/.test(text) ? text : undefined;

export function countOf(raw: RawHeaders, wanted: string): number {
  return [...pairs(raw)].filter(([name]) => name.toLowerCase() === wanted).length;
}

function named(raw: RawHeaders): ReadonlySet<string> {
  const names = [...pairs(raw)]
    .filter(([name]) => name.toLowerCase() === 'connection')
    .flatMap(([, value]) => value.split(',').map((one) => one.trim().toLowerCase()));
  return new Set(names.filter((name) => !NEVER_NAMED.has(name)));
}

function* pairs(raw: RawHeaders): Generator<[string, string]> {
  for (let index = 0; index + 1 < raw.length; index += 2) {
    yield [raw[index] ?? '', raw[index + 1] ?? ''];
  }
}
