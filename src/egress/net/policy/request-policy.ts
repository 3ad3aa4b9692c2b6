/**
 * Judges requests by method and path, once their host and port are allowed. Pure.
 *
 *     no rule by path for the name ─► every request
 *     else: fields and bodies that change the request ─► method ─► a rule for every path ─► path unambiguous ─► its rule
 */

import { isOverride, plainFieldName } from '../http/fields.ts';
import { type Field, hostText, type RequestHead } from '../http/head.ts';
import { type EgressPolicy, type RequestRule, requestRulesFor } from './policy.ts';
import { pathProblemText, readPath } from './request-path.ts';
import { isNeverAllowed, WEBSOCKET } from './request-rule.ts';
import type { Verdict } from './verdict.ts';

export type RequestRefusal =
  /** No rule for the host has this method, or it is never allowed. */
  | 'method_refused'
  | 'path_refused'
  | 'path_ambiguous'
  /** A body of GET or HEAD, which some servers read as the next request (RFC 9110 section 9.3.1). */
  | 'body_refused'
  /** A field that makes some servers use another method, path or host than the request line. */
  | 'field_refused';

export interface RequestVerdict extends Verdict {
  readonly reason?: RequestRefusal;
}

/**
 * The only allowed values of `Connection`: the next proxy drops a field named there, even `Content-Length` (RFC 9110
 * section 7.6.1).
 */
const CONNECTION = /^(?:close|keep-alive|upgrade|te)?$/i;

/** True if requests to this name must be decrypted to be judged. @param name canonical */
export function needsDecryption(policy: EgressPolicy, name: string): boolean {
  return requestRulesFor(policy, name).some(({ scheme }) => scheme === 'https');
}

export function needsAnyDecryption({ allow }: EgressPolicy): boolean {
  return allow.some((rule) => rule.kind === 'request' && rule.scheme === 'https');
}

/** @param head with the scheme of the port, which must match the rules for its host */
export function decideRequest(policy: EgressPolicy, head: RequestHead): RequestVerdict {
  const name = hostText(head.host);
  const all = requestRulesFor(policy, name);
  if (all.length === 0) return { allowed: true, why: '' };
  const rules = all.filter(({ ports }) => ports?.first === head.port);
  const override = head.fields.find(changesRequest);
  if (override !== undefined) {
    const why = `${override.name} can change how a server reads the request; omit it`;
    return refuse('field_refused', why);
  }
  const hasBody = head.framing.kind !== 'none';
  if (hasBody && (head.method === 'GET' || head.method === 'HEAD')) {
    return refuse('body_refused', `a body of ${head.method} may be read as another request`);
  }
  const method = methodOf(head);
  const byMethod = rules.filter((rule) => method !== undefined && hasMethod(rule, method));
  if (byMethod.length === 0) {
    const what = head.upgrade === undefined ? head.method : `a change to ${head.upgrade}`;
    return refuse('method_refused', `no rule allows ${what} of ${name}`);
  }
  if (byMethod.some(({ path }) => path === '/')) return { allowed: true, why: '' };
  const read = readPath(head.path);
  if (!read.ok) {
    const why = `the path means different things to different servers: ${pathProblemText(read.problem)}`;
    return refuse('path_ambiguous', why);
  }
  if (byMethod.some((rule) => isBelow(read.path, rule.path))) return { allowed: true, why: '' };
  return refuse('path_refused', `no rule allows ${head.method} of this path of ${name}`);
}

function changesRequest({ name, value }: Field): boolean {
  if (/^connection$/i.test(plainFieldName(name))) return !value.split(',').every((one) => CONNECTION.test(one.trim()));
  return isOverride(name);
}

/** The method in terms of rules; undefined if no rule may allow it. */
function methodOf({ method, upgrade }: RequestHead): string | undefined {
  // Only GET asks for a WebSocket; a server without WebSocket would act on any other method.
  if (upgrade !== undefined) return method === 'GET' ? WEBSOCKET : undefined;
  return isNeverAllowed(method) || method === WEBSOCKET ? undefined : method;
}

/** A rule without methods allows no WebSocket. */
function hasMethod({ methods }: RequestRule, method: string): boolean {
  return methods === undefined ? method !== WEBSOCKET : methods.has(method);
}

/** Segment by segment: `/v1/mod` is not above `/v1/models`. */
function isBelow(path: string, prefix: string): boolean {
  if (prefix.endsWith('/')) return path.startsWith(prefix);
  return path === prefix || path.startsWith(`${prefix}/`);
}

function refuse(reason: RequestRefusal, why: string): RequestVerdict {
  return { allowed: false, reason, why };
}
