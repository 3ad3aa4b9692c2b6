/**
 * Access to the server. The unix socket (mode 0600) is open to this user and root. The port needs a key,
 * and refuses web pages, which any website could make a browser send: requests with an `Origin`, and requests
 * whose `Host` is not a loopback name (DNS rebinding).
 */
import type { IncomingHttpHeaders } from 'node:http';
import { type Caller, type Callers, SOCKET_CALLER } from '../tenants/callers.ts';
import { ApiError } from './errors.ts';

/** Path that needs no key, for health checks. */
export const OPEN_PATH = '/v1/health';

/** For a path that needs no key. */
const ANYBODY: Caller = { tenant: null, key: 'none' };

export interface Asking {
  readonly headers: IncomingHttpHeaders;
  /** As in the request line, query included. */
  readonly url: string;
  /** True for requests over the unix socket. */
  readonly isLocalUser: boolean;
}

/**
 * Returns who asks, or why nobody is served.
 * @param openPaths further paths that need no key
 */
export function callerOf(
  asking: Asking,
  callers: Pick<Callers, 'identify'>,
  openPaths: readonly string[] = [],
): Caller | ApiError {
  const { headers, url, isLocalUser } = asking;
  if (headers.origin !== undefined) {
    return new ApiError('forbidden', 'requests from web pages (with an Origin header) are refused');
  }
  if (isLocalUser) return SOCKET_CALLER;
  if (!isLoopbackName(headers.host ?? '')) {
    return new ApiError('forbidden', 'the Host header does not name this machine', {
      remedy: 'use http://127.0.0.1 or http://localhost',
    });
  }
  const [path = ''] = url.split('?', 1);
  if (path === OPEN_PATH || openPaths.includes(path)) return ANYBODY;
  const given = givenKey(headers);
  const caller = given === undefined ? null : callers.identify(given);
  if (caller !== null) return caller;
  const what = given === undefined ? 'the request has no API key' : 'the API key is wrong';
  const remedy = 'send a key of the server as `Authorization: Bearer KEY` or `X-API-Key: KEY`';
  return new ApiError('unauthorized', what, { remedy });
}

function givenKey(headers: IncomingHttpHeaders): string | undefined {
  const bearer = /^Bearer +(\S+)$/i.exec(headers.authorization ?? '')?.[1];
  const key = bearer ?? headers['x-api-key'];
  return typeof key === 'string' ? key : undefined;
}

function isLoopbackName(host: string): boolean {
  return /^(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?$/i.test(host);
}
