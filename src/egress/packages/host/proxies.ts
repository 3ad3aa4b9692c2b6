/**
 * Reads the proxies of the host: HTTP_PROXY, HTTPS_PROXY and NO_PROXY, for some clients ALL_PROXY, or a client's own
 * setting. Pure.
 */

import type { Proxies } from '../../outgoing/proxy.ts';
import { PackageError } from '../errors.ts';
import type { Index } from '../upstream/index-set.ts';
import type { HostFiles } from './host-files.ts';

/** Other clients ignore ALL_PROXY, which often is a SOCKS proxy. */
const USE_ALL: readonly string[] = ['pip', 'cargo'];

/** A client's own configuration, which overrides the variables. */
export interface ClientProxies {
  readonly http?: string | undefined;
  readonly https?: string | undefined;
  readonly except?: string | undefined;
}

/**
 * Adds the proxies to an index, if the host has any.
 * @param client name of the program, for errors
 * @throws PackageError `index_invalid`
 */
export function withProxies(
  index: Index,
  { env }: Pick<HostFiles, 'env'>,
  client: string,
  own: ClientProxies = {},
): Index {
  // Lower case first, like curl, pip and Go.
  const variable = (name: string): string | undefined => env[name.toLowerCase()] || env[name] || undefined;
  const all = USE_ALL.includes(client) ? variable('ALL_PROXY') : undefined;
  const proxies: Proxies = {
    http: checked(own.http ?? variable('HTTP_PROXY') ?? all, client),
    https: checked(own.https ?? variable('HTTPS_PROXY') ?? all, client),
    except: own.except ?? variable('NO_PROXY') ?? '',
  };
  if (proxies.http === undefined && proxies.https === undefined) return index;
  return { ...index, proxies };
}

function checked(text: string | undefined, client: string): string | undefined {
  if (text === undefined || text === '') return undefined;
  // curl and pip also accept `host:port`.
  const url = URL.parse(text.includes('://') ? text : `http://${text}`);
  if (url !== null && ['http:', 'https:'].includes(url.protocol) && url.hostname !== '') {
    url.username = encoded(url.username);
    url.password = encoded(url.password);
    return url.href;
  }
  throw new PackageError('index_invalid', `the proxy of the host's ${client} is no http(s) URL`, {
    remedy: 'correct HTTPS_PROXY, or the proxy in the configuration of that program',
  });
}

/** Encodes a percent sign that encodes nothing. curl accepts it as such, but Node refuses it at each request. */
function encoded(text: string): string {
  return text.replace(/(?:%[0-9a-f]{2})+|%/gi, (all) => {
    try {
      decodeURIComponent(all);
      return all;
    } catch {
      return all.replaceAll('%', '%25');
    }
  });
}
