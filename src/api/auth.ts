/**
 * Access to the server. The unix socket (mode 0600) is open to this user and root. The port needs the API key,
 * and refuses web pages, which any website could make a browser send: requests with an `Origin`, and requests
 * whose `Host` is not a loopback name (DNS rebinding).
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { ApiError } from './errors.ts';

/** Path that needs no key, for health checks. */
export const OPEN_PATH = '/v1/health';

export interface Caller {
  readonly headers: IncomingHttpHeaders;
  /** As in the request line, query included. */
  readonly url: string;
  /** True for requests over the unix socket. */
  readonly isLocalUser: boolean;
}

/**
 * Returns why the caller is refused, or null.
 * @param openPaths further paths that need no key
 */
export function refuseCaller(
  caller: Caller,
  apiKey: string | null,
  openPaths: readonly string[] = [],
): ApiError | null {
  const { headers, url, isLocalUser } = caller;
  if (headers.origin !== undefined) {
    return new ApiError('forbidden', 'requests from web pages (with an Origin header) are refused');
  }
  if (isLocalUser) return null;
  if (!isLoopbackName(headers.host ?? '')) {
    return new ApiError('forbidden', 'the Host header does not name this machine', {
      remedy: 'use http://127.0.0.1 or http://localhost',
    });
  }
  const [path = ''] = url.split('?', 1);
  if (path === OPEN_PATH || openPaths.includes(path)) return null;
  const given = givenKey(headers);
  if (apiKey !== null && given !== undefined && equalInConstantTime(given, apiKey)) return null;
  const what = given === undefined ? 'the request has no API key' : 'the API key is wrong';
  const remedy = 'send the key of the server as `Authorization: Bearer KEY` or `X-API-Key: KEY`';
  return new ApiError('unauthorized', what, { remedy });
}

function givenKey(headers: IncomingHttpHeaders): string | undefined {
  const bearer = /^Bearer +(\S+)$/i.exec(headers.authorization ?? '')?.[1];
  const key = bearer ?? headers['x-api-key'];
  return typeof key === 'string' ? key : undefined;
}

/** Compares digests of equal length, so that timing reveals nothing about the key, not even its length. */
function equalInConstantTime(a: string, b: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}

function isLoopbackName(host: string): boolean {
  return /^(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?$/i.test(host);
}
