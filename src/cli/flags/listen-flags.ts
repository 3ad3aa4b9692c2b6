/** Where `serve` listens besides its socket. */
import { isIP } from 'node:net';
import { UsageError } from '../failure.ts';

export interface ListenFlags {
  readonly port?: number;
  readonly host?: string;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly plainHttp?: boolean;
  readonly domain?: string;
}

export interface ListenChoice {
  /** 0: any free one. */
  readonly port: number;
  /** An IP address. */
  readonly host: string;
  /** Files; null: no TLS. */
  readonly tls: { readonly certPath: string; readonly keyPath: string } | null;
  /** As given: names of sandboxes end with it, and it may hold a port. */
  readonly domain: string | null;
  /** Names of this machine, for the check of `Host`. */
  readonly names: readonly string[];
  /** For the log; null: none. */
  readonly warning: string | null;
}

const DOMAIN = /^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:[1-9]\d{0,4})?$/;
const DOMAIN_CHARACTERS_MAX = 200;

/** @returns null: only the socket. @throws UsageError */
export function listenChoice(flags: ListenFlags): ListenChoice | null {
  const { port, host = '127.0.0.1', tlsCert, tlsKey, plainHttp = false } = flags;
  if (port === undefined) {
    const given = Object.entries({
      '--host': flags.host,
      '--tls-cert': tlsCert,
      '--tls-key': tlsKey,
      '--plain-http': flags.plainHttp,
      '--domain': flags.domain,
    }).find(([, value]) => value !== undefined);
    if (given === undefined) return null;
    throw new UsageError(`${given[0]} has no effect without --port`, 'add --port, for example --port 7070');
  }
  if (isIP(host) === 0) {
    throw new UsageError(
      `--host ${host}: not an IP address`,
      'use 127.0.0.1, 0.0.0.0 (all IPv4 addresses), :: (all addresses) or one of this machine',
    );
  }
  if ((tlsCert === undefined) !== (tlsKey === undefined)) {
    throw new UsageError('--tls-cert and --tls-key belong together', 'give both files, in PEM');
  }
  const tls = tlsCert === undefined || tlsKey === undefined ? null : { certPath: tlsCert, keyPath: tlsKey };
  const isOpen = !isLoopback(host) && tls === null;
  if (isOpen && !plainHttp) {
    throw new UsageError(
      `--host ${host} without TLS: whoever can read the network reads the API key and all data`,
      'add --tls-cert and --tls-key, or --plain-http if the network is yours alone',
    );
  }
  const domain = flags.domain?.toLowerCase() ?? null;
  if (domain !== null && (domain.length > DOMAIN_CHARACTERS_MAX || !DOMAIN.test(domain))) {
    throw new UsageError(
      `--domain ${flags.domain}: not a name, or a name and a port`,
      'for example sandboxes.example.org or sbx.localhost:7443',
    );
  }
  const name = domain?.replace(/:\d+$/, '');
  return {
    port,
    host,
    tls,
    domain,
    names: name === undefined ? [] : [name, `api.${name}`],
    warning: isOpen
      ? `listening at ${host} without TLS: whoever can read the network reads the API key and all data`
      : null,
  };
}

const isLoopback = (address: string): boolean => address.startsWith('127.') || address === '::1';

/** Base of the URLs of a server, for a client on this machine. */
export function urlOf({ host, tls, domain }: Pick<ListenChoice, 'host' | 'tls' | 'domain'>, port: number): string {
  if (tls !== null && domain !== null) {
    // By its certificate's name.
    const rest = domain.includes(':') || port === 443 ? '' : `:${port}`;
    return `https://api.${domain}${rest}`;
  }
  const reached = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host;
  const authority = reached.includes(':') ? `[${reached}]` : reached;
  return `${tls === null ? 'http' : 'https'}://${authority}:${port}`;
}

/** The end of the names of sandboxes if the owner has chosen none. */
export function defaultDomain({ host }: Pick<ListenChoice, 'host'>, port: number): string {
  return isLoopback(host) ? `localhost:${port}` : new URL(urlOf({ host, tls: null, domain: null }, port)).host;
}
