/** Parses the host's resolvers in resolv.conf(5). Pure. */
import { parseAddress } from '../addresses/addresses.ts';
import type { DnsUpstream } from './upstream.ts';

/** MAXNS: the C library never asks later ones. */
const RESOLVERS_MAX = 3;
const DNS_PORT = 53;

/** In order. Skips an address with a zone (`fe80::1%eth0`). */
export function parseResolvConf(text: string): DnsUpstream[] {
  return text
    .split('\n')
    .flatMap((line) => /^nameserver[ \t]+(\S+)/.exec(line)?.[1] ?? [])
    .filter((address) => parseAddress(address) !== undefined)
    .slice(0, RESOLVERS_MAX)
    .map((address) => ({ address, port: DNS_PORT }));
}
