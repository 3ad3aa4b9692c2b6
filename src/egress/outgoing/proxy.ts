/** Chooses the proxy of a URL. Pure. */
import { BlockList, isIP } from 'node:net';

/** URLs, including user and password where the proxy needs them. */
export interface Proxies {
  readonly http?: string | undefined;
  readonly https?: string | undefined;
  /** Hosts that are reached directly, as in NO_PROXY. */
  readonly except: string;
}

/** URL of the proxy; undefined if there is none. */
export function proxyFor(url: URL, proxies: Proxies | undefined): string | undefined {
  if (proxies === undefined) return undefined;
  const proxy = url.protocol === 'https:' ? proxies.https : proxies.http;
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1').toLowerCase();
  if (proxy === undefined || isLoopback(host)) return undefined;
  const port = url.port || (url.protocol === 'https:' ? '443' : '80');
  const isExcepted = proxies.except
    .split(/[\s,]+/)
    .some((rule) => rule !== '' && matches(rule.toLowerCase(), host, port));
  return isExcepted ? undefined : proxy;
}

/** As in Go, this host itself is never reached through a proxy. */
function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
}

/**
 * Accepts `*`, `name` including the names below it, `.name`, `*.name`, an address or a block, each optionally with
 * `:port`.
 */
function matches(rule: string, host: string, port: string): boolean {
  if (rule === '*') return true;
  if (rule.includes('/')) return isInBlock(host, rule);
  const [, name = rule, rulePort] = isIP(rule) === 6 ? [] : (/^\[?(.+?)\]?(?::([0-9]{1,5}))?$/.exec(rule) ?? []);
  if (rulePort !== undefined && rulePort !== port) return false;
  const domain = name.replace(/^\*?\./, '');
  return host === domain || (isIP(host) === 0 && host.endsWith(`.${domain}`));
}

function isInBlock(host: string, block: string): boolean {
  const [address = '', bits = ''] = block.split('/');
  const family = isIP(address);
  const most = family === 6 ? 128 : 32;
  if (family === 0 || isIP(host) !== family) return false;
  if (!/^[0-9]{1,3}$/.test(bits) || Number(bits) > most) return false;
  const type = family === 6 ? 'ipv6' : 'ipv4';
  const list = new BlockList();
  list.addSubnet(address, Number(bits), type);
  return list.check(host, type);
}
