/**
 * HTTP headers: checks that a request has unambiguous framing, and selects what passes in each direction. Both
 * directions are allowlists, so credentials, cookies and identity headers of either side stop here.
 */

import { accepted, type Checked, refused } from '../../base/http/refusal.ts';
import { callerKey } from './caller-key.ts';
import type { UpstreamApi, UpstreamTarget } from './upstream/address.ts';
import { passedBetas } from './upstream/betas.ts';

/** From the guest to the upstream. The bridge sets content type, user agent and authorization. */
const REQUEST_HEADERS = [
  'accept',
  'idempotency-key',
  'traceparent',
  'tracestate',
  'x-client-request-id',
  'x-request-id',
] as const;

/** Additional headers for an upstream, by its API. */
const API_HEADERS: Readonly<Record<UpstreamApi, readonly string[]>> = {
  openai: ['openai-beta'],
  anthropic: ['anthropic-beta', 'anthropic-version'],
};

const VERSION = /^\d{4}-\d{2}-\d{2}$/;

/** From the upstream to the guest. */
const RESPONSE_HEADERS = [
  'cache-control',
  'content-encoding',
  'content-length',
  'content-type',
  'request-id',
  'retry-after',
  'retry-after-ms',
  'x-request-id',
  'x-should-retry',
] as const;

/**
 * Rate limits that the upstream reports, e.g. `x-ratelimit-remaining-tokens`. Anthropic's are excluded: they do not
 * count cached tokens, and so reveal what other sandboxes have asked.
 */
const RATE_LIMIT_HEADER = /^x-ratelimit-[a-z-]{1,40}$/;
const RATE_LIMIT_HEADERS_MAX = 16;

const HEADER_VALUE_CHARACTERS_MAX = 1024;
/** 64 bits, so that another sandbox's id can't be found by chance or search. */
const REQUEST_ID_DIGITS = 16;

/**
 * Refuses requests that two HTTP parsers could read differently (RFC 9112 section 6.3, 11.2). Node's parser refuses
 * most of them already; this must hold with any parser in front.
 * @param rawHeaders alternating names and values, as received
 */
export function checkFraming(rawHeaders: readonly string[]): Checked<void> {
  const lengths = valuesOf(rawHeaders, 'content-length');
  const encodings = valuesOf(rawHeaders, 'transfer-encoding');
  if (valuesOf(rawHeaders, 'host').length > 1) return badFraming('more than one Host');
  if (lengths.length > 1) return badFraming('more than one Content-Length');
  if (lengths.length === 1 && !/^\d{1,15}$/.test(lengths[0] ?? '')) {
    return badFraming('a Content-Length that is not a number');
  }
  if (encodings.length === 0) return accepted(undefined);
  if (lengths.length > 0) return badFraming('both Content-Length and Transfer-Encoding');
  if (encodings.length > 1 || encodings[0]?.toLowerCase() !== 'chunked') {
    return badFraming('a Transfer-Encoding other than "chunked"');
  }
  return accepted(undefined);
}

/**
 * The guest's headers that the upstream gets. All sandboxes share one key there: equal idempotency keys of two
 * sandboxes would give one the other's answer, and vLLM identifies a running request by `X-Request-Id`. So each of them
 * becomes one of the sandbox's own. The request id stays readable, for logs.
 */
export function requestHeaders(
  received: Readonly<Record<string, string | readonly string[] | undefined>>,
  sandboxId: string,
  { api = 'openai', betas }: Pick<UpstreamTarget, 'api' | 'betas'> = {},
): Record<string, string> {
  const picked = pick(received, [...REQUEST_HEADERS, ...API_HEADERS[api]]);
  if (!VERSION.test(picked['anthropic-version'] ?? '')) delete picked['anthropic-version'];
  const passed = passedBetas(picked['anthropic-beta'] ?? '', betas);
  if (passed === undefined) delete picked['anthropic-beta'];
  else picked['anthropic-beta'] = passed;
  const { 'idempotency-key': key, 'x-request-id': id } = picked;
  if (key !== undefined) picked['idempotency-key'] = callerKey(sandboxId, 'idempotency', key);
  if (id !== undefined) {
    const own = callerKey(sandboxId, 'request', id).slice(0, REQUEST_ID_DIGITS);
    picked['x-request-id'] = `${id}-${own}`;
  }
  return picked;
}

export function responseHeaders(
  received: Readonly<Record<string, string | readonly string[] | undefined>>,
): Record<string, string> {
  const limits = Object.keys(received).filter((name) => RATE_LIMIT_HEADER.test(name));
  return pick(received, [...RESPONSE_HEADERS, ...limits.slice(0, RATE_LIMIT_HEADERS_MAX)]);
}

function pick(
  received: Readonly<Record<string, string | readonly string[] | undefined>>,
  names: readonly string[],
): Record<string, string> {
  const out: Record<string, string> = {};
  for (const name of names) {
    if (!Object.hasOwn(received, name)) continue;
    const value = received[name];
    if (typeof value === 'string' && isPlain(value)) out[name] = value;
  }
  return out;
}

/** Accepts visible ASCII, spaces and tabs, so nothing that could end a header line. */
function isPlain(value: string): boolean {
  return value.length <= HEADER_VALUE_CHARACTERS_MAX && /^[\t\x20-\x7e]*$/.test(value);
}

function valuesOf(rawHeaders: readonly string[], name: string): string[] {
  const out: string[] = [];
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    if (rawHeaders[i]?.toLowerCase() === name) out.push(rawHeaders[i + 1] ?? '');
  }
  return out;
}

function badFraming(what: string): Checked<never> {
  return refused(400, 'bad_framing', `The request has ${what}.`);
}
