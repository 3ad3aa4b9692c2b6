/**
 * Headers between clients and programs in sandboxes (RFC 9110, section 7.6). Each connection has its own framing: what
 * a side says of its connection never reaches the other. Pure.
 */

/** Names and values in turn, as they were received. */
export type RawHeaders = readonly string[];

/** Of one connection, besides those that `Connection` names. */
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
/** Of our own interface, or answered by us. */
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
/** Named in `Connection`, they would be removed although a request needs them. */
const NEVER_NAMED: ReadonlySet<string> = new Set(['host', 'content-length', 'content-type']);

export interface RequestRules {
  /** Replaces `Host`; null: as the client sent it. */
  readonly host: string | null;
  /** The protocol to upgrade to; null: none. */
  readonly upgrade: string | null;
  /** Envd's token of the sandbox, which its programs do not need. */
  readonly isSecret: (name: string, value: string) => boolean;
}

/** Headers for the program, without those that frame the body. */
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
 * Headers for the client. `Content-Length` stays only where the parser has found a body of that length, or there is
 * none by definition.
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

/** Trailers for either side. */
export function trailers(raw: RawHeaders): [string, string][] {
  return [...pairs(raw)].filter(([name]) => {
    const lower = name.toLowerCase();
    return !(HOP_BY_HOP.has(lower) || NOT_IN_TRAILERS.has(lower) || NOT_FOR_GUESTS.has(lower) || CLAIMS.has(lower));
  });
}

/** A parameter has one way to match, so the time grows with the length alone. */
const LINK = /^<[^>]*>(?:\s*;\s*[^;"\s=]+(?:=(?:"[^;"\s]*"|[^;"\s]*))?)*$/;

/**
 * The links of a hint (103), each by itself; those that are not valid are left out. Node checks them again by a pattern that takes
 * hours for some that are not: a program could stop the daemon by one.
 */
export const hintLinks = (link: string): string[] => link.split(/,\s*(?=<)/).filter((one) => LINK.test(one));

/** A phrase that HTTP allows; undefined: the usual one of the status. */
export const reasonPhrase = (text: string | undefined): string | undefined =>
  text !== undefined && /^[\t\x20-\x7e]{1,128}$/.test(text) ? text : undefined;

/** How often a header was sent. */
export function countOf(raw: RawHeaders, wanted: string): number {
  return [...pairs(raw)].filter(([name]) => name.toLowerCase() === wanted).length;
}

/** Names in `Connection`. */
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
