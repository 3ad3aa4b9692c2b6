/** The resolvers of the host, as resolv.conf(5) names them. Pure. */
import { parseAddress } from '../addresses/addresses.ts';
import type { DnsUpstream } from './upstream.ts';

/** As the C library: later ones are never asked (MAXNS). */
const RESOLVERS_MAX = 3;
const DNS_PORT = 53;

/** In their order; an address with a zone (`fe80::1%eth0`) is passed over. */
export function parseResolvConf(text: string): DnsUpstream[] {
  return text
    .split('\n')
    .flatMap((line) => /^nameserver[ \t]+(\S+)/.exec(line)?.[1] ?? [])
    .filter((address) => parseAddress(address) !== undefined)
    .slice(0, RESOLVERS_MAX)
    .map((address) => ({ address, port: DNS_PORT }));
}
