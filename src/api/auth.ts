/**
 * Who may speak to the server. On the unix socket: who may open it (mode 0600), so this user and root.
 * On the port: who has the API key, whatever user of this machine; and never a browser's page, which any
 * website could send (an `Origin`), or lure here by a name that it has pointed at 127.0.0.1 (DNS rebinding,
 * so the `Host` must be a name of this machine).
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { ApiError } from './errors.ts';

/** What anybody may ask, for probes. */
export const OPEN_PATH = '/v1/health';

export interface Caller {
  readonly headers: IncomingHttpHeaders;
  /** As in the request line, query included. */
  readonly url: string;
  /** It came over the unix socket. */
  readonly isLocalUser: boolean;
}

/**
 * Why the caller is not served, or null.
 * @param openPaths that anybody on this machine may ask too
 */
export function refuseCaller(
  caller: Caller,
  apiKey: string | null,
  openPaths: readonly string[] = [],
): ApiError | null {
  const { headers, url, isLocalUser } = caller;
  if (headers.origin !== undefined) {
    return new ApiError('forbidden', 'requests of web pages (with an Origin) are not served');
  }
  if (isLocalUser) return null;
  if (!isLoopbackName(headers.host ?? '')) {
    return new ApiError('forbidden', 'the Host of the request is no name of this machine', {
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

/** The digests have one length, so the time tells nothing of the key, not even how long it is. */
function equalInConstantTime(a: string, b: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}

function isLoopbackName(host: string): boolean {
  return /^(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?$/i.test(host);
}
