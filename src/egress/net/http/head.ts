/**
 * Parses the head of an HTTP/1.1 request (RFC 9112 sections 2–6, RFC 9110 section 7.2), so strictly that no server can
 * read it differently. Pure.
 *
 * `forward` is serialized from what was parsed, in origin-form and without an offer of h2c, so the request that was
 * judged is the one that arrives.
 */
import { type Host, parseHost } from '../addresses/host-name.ts';
import { plainFieldName } from './fields.ts';
import type { BodyFraming } from './framer.ts';

export const HEAD_BYTES_MAX = 16 * 1024;
export const HEAD_FIELDS_MAX = 100;
const METHOD_CHARACTERS_MAX = 32;
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
export type HttpScheme = 'http' | 'https';
const PORTS: Readonly<Record<HttpScheme, number>> = { http: 80, https: 443 };

export type HeadProblem =
  | 'too_long'
  | 'line_end'
  | 'request_line'
  /** Neither HTTP/1.0 nor 1.1; also HTTP/2 without TLS. */
  | 'version'
  | 'field'
  /** A continued field line (obs-fold). */
  | 'fold'
  | 'host_missing'
  | 'host_repeated'
  /** Not a host and port, or an address that is not in canonical form. */
  | 'host_malformed'
  /** `Host` differs from the authority of the absolute-form target. */
  | 'host_mismatch'
  | 'length'
  /** Both kinds of length, one kind twice, or an unknown transfer coding. */
  | 'framing'
  /** A chunk with extensions or without its end, or a trailer field that belongs in a head. */
  | 'chunk'
  | 'connect'
  /** An upgrade to a protocol that can't be judged. */
  | 'upgrade';

export interface RequestHead {
  /** As sent; methods are case-sensitive. */
  readonly method: string;
  readonly host: Host;
  readonly port: number;
  /** Path and query, or `*`. */
  readonly path: string;
  readonly framing: BodyFraming;
  readonly version: string;
  readonly fields: readonly Field[];
  /** Requested protocol upgrade, only within TLS; undefined if there is none. */
  readonly upgrade: 'websocket' | undefined;
  /** The head to pass on, with its empty line. */
  readonly forward: string;
}

type HeadParsed =
  | { readonly ok: true; readonly head: RequestHead }
  | { readonly ok: false; readonly reason: HeadProblem };

export interface Field {
  readonly name: string;
  readonly value: string;
}

/** @param lines of the head without their CRLF and without the empty one; latin1 text */
export function parseHead(lines: readonly string[], scheme: HttpScheme = 'http'): HeadParsed {
  const refused = (reason: HeadProblem): HeadParsed => ({ ok: false, reason });
  const [line = '', ...rest] = lines;
  const request = parseRequestLine(line);
  if (typeof request === 'string') return refused(request);
  if (rest.length > HEAD_FIELDS_MAX) return refused('too_long');
  const fields = parseFields(rest);
  if (typeof fields === 'string') return refused(fields);
  const framing = framingOf(fields, request.version);
  if (typeof framing === 'string') return refused(framing);
  const hosts = valuesOf(fields, 'host');
  if (hosts.length !== 1) return refused(hosts.length === 0 ? 'host_missing' : 'host_repeated');
  const authority = parseAuthority(hosts[0] ?? '', scheme);
  if (authority === undefined) return refused('host_malformed');
  const path = pathOf(request, authority, scheme);
  if (!path.ok) return refused(path.reason);
  // Java's client offers h2c with every first request; servers may ignore offers.
  const offers = valuesOf(fields, 'upgrade');
  const isOffer = offers.every((offer) => offer.toLowerCase() === 'h2c');
  // From a list, the server could choose the other protocol.
  const isWebSocket = offers.length === 1 && offers[0]?.toLowerCase() === 'websocket';
  const upgrade = scheme === 'https' && isWebSocket ? 'websocket' : undefined;
  if (!isOffer && (upgrade === undefined || framing.kind !== 'none')) return refused('upgrade');
  const { method, version } = request;
  const kept = offers.length === 0 || !isOffer ? fields : withoutUpgrade(fields);
  return {
    ok: true,
    head: {
      method,
      ...authority,
      path: path.path,
      framing,
      version,
      fields: kept,
      upgrade,
      forward: headText({ method, version, path: path.path }, kept),
    },
  };
}

export function headText(
  { method, path, version }: Pick<RequestHead, 'method' | 'path' | 'version'>,
  fields: readonly Field[],
): string {
  const lines = fields.map(({ name, value }) => `${name}: ${value}\r\n`);
  return `${method} ${path} ${version}\r\n${lines.join('')}\r\n`;
}

export function parseFields(lines: readonly string[]): Field[] | HeadProblem {
  const out: Field[] = [];
  for (const line of lines) {
    if (line.startsWith(' ') || line.startsWith('\t')) return 'fold';
    const colon = line.indexOf(':');
    const name = line.slice(0, Math.max(0, colon));
    const value = line.slice(colon + 1).replace(/^[ \t]+|[ \t]+$/g, '');
    // RFC 9112 section 5.1: no space before the colon. Control characters other than tab are invalid anywhere.
    if (!TOKEN.test(name) || !/^[\t\x20-\x7e\x80-\xff]*$/.test(value)) return 'field';
    // Servers behind CGI read `Content_Length` as `Content-Length`.
    const plain = plainFieldName(name);
    if (plain !== name && isFraming(plain)) return 'field';
    out.push({ name, value });
  }
  return out;
}

/** Fields that decide where a request ends or which host it is for; forbidden in a trailer. */
export function isFraming(name: string): boolean {
  return /^(?:host|content-length|transfer-encoding|trailer|connection|upgrade)$/i.test(name);
}

interface RequestLine {
  readonly method: string;
  readonly target: string;
  readonly version: string;
}

function parseRequestLine(line: string): RequestLine | HeadProblem {
  const parts = line.split(' ');
  const [method = '', target = '', version = ''] = parts;
  if (parts.length !== 3 || !TOKEN.test(method) || method.length > METHOD_CHARACTERS_MAX) return 'request_line';
  if (version !== 'HTTP/1.1' && version !== 'HTTP/1.0') return 'version';
  // Visible ASCII; a fragment is never sent (RFC 9112 section 3.2), and some servers read `\` as a slash.
  if (!/^[\x21-\x7e]+$/.test(target) || /[#\\]/.test(target)) return 'request_line';
  return { method, target, version };
}

/** RFC 9112 section 6.3, but refuses a request with more than one way to find its end. */
function framingOf(fields: readonly Field[], version: string): BodyFraming | HeadProblem {
  const lengths = valuesOf(fields, 'content-length');
  const codings = valuesOf(fields, 'transfer-encoding');
  if (lengths.length + codings.length > 1) return 'framing';
  const [length] = lengths;
  if (length !== undefined) {
    if (!/^\d{1,15}$/.test(length)) return 'length';
    return Number(length) === 0 ? { kind: 'none' } : { kind: 'length', bytes: Number(length) };
  }
  if (codings.length === 0) return { kind: 'none' };
  if (version !== 'HTTP/1.1' || codings[0]?.toLowerCase() !== 'chunked') return 'framing';
  return { kind: 'chunked' };
}

interface Authority {
  readonly host: Host;
  readonly port: number;
}

function parseAuthority(text: string, scheme: HttpScheme): Authority | undefined {
  const match = /^(\[[^\]]*\]|[^:@/?\\[\]]+)(?::(\d{1,5}))?$/.exec(text);
  const host = parseHost(match?.[1] ?? '');
  const port = match?.[2] === undefined ? PORTS[scheme] : Number(match[2]);
  return host === undefined || port < 1 || port > 65_535 ? undefined : { host, port };
}

type PathFound = { ok: true; path: string } | { ok: false; reason: HeadProblem };

/** Accepts the four forms of RFC 9112 section 3.2. */
function pathOf(request: RequestLine, authority: Authority, scheme: HttpScheme): PathFound {
  const { method, target } = request;
  if (method === 'CONNECT') return { ok: false, reason: 'connect' };
  if (target.startsWith('/')) return { ok: true, path: target };
  if (target === '*') {
    return method === 'OPTIONS' ? { ok: true, path: '*' } : { ok: false, reason: 'request_line' };
  }
  const absolute = /^(https?):\/\/([^/?]*)(\/[^?]*)?(\?.*)?$/i.exec(target);
  if (absolute === null || absolute[1]?.toLowerCase() !== scheme) return { ok: false, reason: 'request_line' };
  const named = parseAuthority(absolute[2] ?? '', scheme);
  if (named === undefined) return { ok: false, reason: 'host_malformed' };
  if (named.port !== authority.port || hostText(named.host) !== hostText(authority.host))
    return { ok: false, reason: 'host_mismatch' };
  return { ok: true, path: `${absolute[3] ?? '/'}${absolute[4] ?? ''}` };
}

/** For messages and comparison: a name never equals an address. */
export function hostText(host: Host): string {
  return host.kind === 'name' ? host.name : host.address;
}

function withoutUpgrade(fields: readonly Field[]): Field[] {
  return fields.flatMap((field) => {
    if (/^(?:upgrade|http2-settings)$/i.test(field.name)) return [];
    if (!/^connection$/i.test(field.name)) return [field];
    const kept = field.value
      .split(',')
      .map((token) => token.trim())
      .filter((token) => token !== '' && !/^(?:upgrade|http2-settings)$/i.test(token));
    return kept.length === 0 ? [] : [{ name: field.name, value: kept.join(', ') }];
  });
}

function valuesOf(fields: readonly Field[], name: string): string[] {
  return fields.flatMap((field) => (field.name.toLowerCase() === name ? [field.value] : []));
}
