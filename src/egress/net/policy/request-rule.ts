/**
 * Parses the text of rules by method and path. Pure.
 *
 *     rule    = [ methods " " ] ( "https" / "http" ) "://" name path
 *     methods = method *( "," method )        absent: all, except those that are never allowed
 *     name    = api.example.com / *.example.com
 *     path    = "/v1/" everything below it / "/v1/models" it, and everything below it / "/" every path
 */

import { parseHostName } from '../addresses/host-name.ts';
import { NetError } from '../errors.ts';
import type { RequestRule } from './policy.ts';
import { pathProblemText, readPath } from './request-path.ts';

/** Stands for requests to upgrade to WebSocket, which have no method of their own (RFC 6455 section 4.1). */
export const WEBSOCKET = 'WEBSOCKET';
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}$/;
/** Methods that open a tunnel, or return a request with what was added on its way. */
const NEVER: ReadonlySet<string> = new Set(['CONNECT', 'TRACE', 'TRACK', 'DEBUG']);
const METHODS_MAX = 16;
const PORTS = { https: 443, http: 80 } as const;
const USUAL = /^(?:get|head|post|put|patch|delete|options|websocket)$/i;

const REMEDY =
  'Write e.g. "GET,HEAD https://api.example.com/v1/", "https://api.example.com/v1/chat" (all methods) or "WEBSOCKET,GET https://api.example.com/live".';

/** True if the text is meant as such a rule: no other rule contains `://`. */
export function isRequestRule(text: string): boolean {
  return text.includes('://');
}

/** True if no rule may allow the method. Ignores case. */
export function isNeverAllowed(method: string): boolean {
  return NEVER.has(method.toUpperCase());
}

/** @throws NetError `policy_invalid` */
export function parseRequestRule(text: string): RequestRule {
  const match = /^(?:(.*?) +)?([a-z][a-z0-9+.-]*):\/\/([^/?#]*)(.*)$/i.exec(text);
  if (match === null) throw invalid(text, 'has no URL');
  const [, words, schemeText = '', authority = '', rest = ''] = match;
  const scheme = schemeText.toLowerCase();
  if (scheme !== 'https' && scheme !== 'http') throw invalid(text, `is of ${scheme}://`);
  const methods = words === undefined ? undefined : parseMethods(text, words);
  if (scheme === 'http' && methods?.has(WEBSOCKET) === true) throw invalid(text, 'has WEBSOCKET, which needs https://');
  const port = PORTS[scheme];
  return {
    kind: 'request',
    text,
    ...parseName(text, authority, port),
    ports: { first: port, last: port },
    protocol: 'tcp',
    scheme,
    methods,
    path: parsePath(text, rest),
  };
}

function parseMethods(text: string, words: string): ReadonlySet<string> {
  const methods = words.split(',');
  if (methods.length > METHODS_MAX) throw invalid(text, `has more than ${METHODS_MAX} methods`);
  for (const method of methods) {
    if (!TOKEN.test(method)) throw invalid(text, `has ${quote(method)} where a method belongs`);
    if (isNeverAllowed(method)) throw invalid(text, `has ${method}, which is never allowed`);
    const isMiswritten = USUAL.test(method) && method !== method.toUpperCase();
    if (isMiswritten) throw invalid(text, `has ${method}: methods are written in capitals`);
  }
  return new Set(methods);
}

function parseName(text: string, authority: string, port: number): Pick<RequestRule, 'name' | 'below'> {
  if (authority.includes('@')) throw invalid(text, 'has a user in its URL');
  const [, host = '', portText] = /^(\[.*\]|[^:]*)(?::(.*))?$/.exec(authority) ?? [];
  if (portText !== undefined && portText !== String(port)) {
    throw invalid(text, 'has another port: requests are judged at 443 (https) and 80 (http) only');
  }
  const below = host.startsWith('*.');
  const name = parseHostName((below ? host.slice(2) : host).replace(/\.$/, ''));
  if (name === undefined) throw invalid(text, `has ${quote(host)} where a host name belongs`);
  return { name, below };
}

/** As strict as the check of requests. */
function parsePath(text: string, rest: string): string {
  if (rest === '') throw invalid(text, 'has no path: end it with / for every path');
  if (/[?#]/.test(rest)) throw invalid(text, 'has a query or fragment: only the path is judged');
  if (rest.includes('*')) throw invalid(text, 'has a * in its path: a rule includes everything below its path');
  const read = readPath(rest);
  if (!read.ok) throw invalid(text, `has a path that no request can have: ${pathProblemText(read.problem)}`);
  return read.path;
}

function invalid(text: string, why: string): NetError {
  return new NetError('policy_invalid', `egress rule ${quote(text.slice(0, 320))} ${why}`, { remedy: REMEDY });
}

function quote(text: string): string {
  return JSON.stringify(text);
}
