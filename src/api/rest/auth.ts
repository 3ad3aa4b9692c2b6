/**
 * Access to the server. The unix socket (mode 0600) is open to this user and root. The port needs a key, and refuses
 * web pages, since any website could make a browser send a request: those with an `Origin`, and those whose `Host` is a
 * name that any site could point here (DNS rebinding). Names of this machine are those of loopback, the address that
 * the connection came to, and those that the owner configured.
 */
import type { IncomingHttpHeaders } from 'node:http';
import { type Caller, type Callers, SOCKET_CALLER } from '../tenants/callers.ts';
import { ApiError } from './errors.ts';

/** Path that needs no key, for health checks. */
export const OPEN_PATH = '/v1/health';

const ANYBODY: Caller = { tenant: null, key: 'none' };

export interface Asking {
  readonly headers: IncomingHttpHeaders;
  /** As in the request line, including the query. */
  readonly url: string;
  readonly isLocalUser: boolean;
  readonly localAddress?: string | undefined;
}

export interface Access {
  readonly openPaths?: readonly string[];
  /** Names of this machine, without ports. */
  readonly names?: readonly string[];
}

/** Returns the caller, or why the request is refused. */
export function callerOf(
  asking: Asking,
  callers: Pick<Callers, 'identify'>,
  { openPaths = [], names = [] }: Access = {},
): Caller | ApiError {
  const { headers, url, isLocalUser } = asking;
  if (headers.origin !== undefined) {
    return new ApiError('forbidden', 'requests from web pages (with an Origin header) are refused');
  }
  if (isLocalUser) return SOCKET_CALLER;
  if (!isOwnName(headers.host ?? '', names, asking.localAddress)) {
    return new ApiError('forbidden', 'the Host header does not name this machine', {
      remedy: 'use its address, localhost, or the --domain of serve',
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

function isOwnName(host: string, names: readonly string[], localAddress: string | undefined): boolean {
  const name = host.toLowerCase().replace(/:\d{1,5}$/, '');
  if (['127.0.0.1', 'localhost', '[::1]'].includes(name) || names.includes(name)) return true;
  // From a socket for both families.
  const address = localAddress?.replace(/^::ffff:(?=\d+\.)/, '');
  return address !== undefined && name === (address.includes(':') ? `[${address}]` : address);
}
