/** State of this host's network that leases depend on (io): blocks in use, MTU, resolvers. */
import { accessSync, constants, readFileSync } from 'node:fs';
import { describeError, errorCode } from '../../../base/errors.ts';
import type { Log } from '../../../base/log.ts';
import { TUN_DEVICE } from '../../../sys/tun.ts';
import type { Occupied } from '../addresses/address-plan.ts';
import { type Cidr, parseCidr } from '../addresses/addresses.ts';
import { parseResolvConf } from '../dns/resolv-conf.ts';
import type { DnsUpstream } from '../dns/upstream.ts';
import type { Links } from '../link/links.ts';
import { LinkError, linkError } from '../netlink/errors.ts';

const RESOLV_CONF = '/etc/resolv.conf';
const MTU_DEFAULT = 1500;
/** IPv4's minimum (RFC 791, section 3.1); a smaller MTU is a mistake in the host's configuration. */
const MTU_MIN = 576;

/** Routes and addresses of other programs; those of our TAPs are no conflict. */
export function occupiedBlocks(links: Links): Occupied[] {
  const names = new Map(links.list().map(({ index, name }) => [index, name]));
  const ours = new Set(links.owned().map(({ link }) => link.index));
  const nameOf = (index: number | undefined): string => names.get(index ?? 0) ?? 'several links';
  const routes = links.routes().flatMap(({ destination, linkIndex }) => {
    if (linkIndex !== undefined && ours.has(linkIndex)) return [];
    return ipv4Block(destination).map((block) => ({ block, what: `route by ${nameOf(linkIndex)}` }));
  });
  const addresses = links.addresses().flatMap(({ address, prefixLength, linkIndex }) => {
    if (ours.has(linkIndex)) return [];
    const what = `address of ${nameOf(linkIndex)}`;
    return ipv4Block(`${address}/32`).map((block) => ({ block: widen(block, prefixLength), what }));
  });
  return [...routes, ...addresses];
}

/** @returns one block; none if the text is IPv6 or no block */
export function ipv4Block(text: string): Cidr[] {
  const reading = parseCidr(text);
  return reading.ok && reading.cidr.family === 4 ? [reading.cidr] : [];
}

/** The block of this prefix length around `block`, a single address. */
function widen({ family, base }: Cidr, prefix: number): Cidr {
  const hostBits = BigInt(32 - prefix);
  return { family, base: (base >> hostBits) << hostBits, prefix };
}

/** MTU of the default route's link, so that a guest's largest packet leaves the host unfragmented. */
export function uplinkMtu(links: Links): number {
  const route = links.routes().find(({ destination }) => destination === '0.0.0.0/0');
  const mtu = route?.linkIndex === undefined ? undefined : links.find(route.linkIndex)?.mtu;
  return Math.max(MTU_MIN, Math.min(MTU_DEFAULT, mtu ?? MTU_DEFAULT));
}

export function hostResolvers(log: Log): readonly DnsUpstream[] {
  let text = '';
  try {
    text = readFileSync(RESOLV_CONF, 'utf8');
  } catch (error) {
    log.warn('read the resolvers of the host', { error: describeError(error) });
  }
  const resolvers = parseResolvConf(text);
  if (resolvers.length === 0) log.warn('no resolver: guests cannot look up names', { RESOLV_CONF });
  return resolvers;
}

/** @throws LinkError `unsupported` without /dev/net/tun; `not_permitted` */
export function assertTunDevice(): void {
  try {
    accessSync(TUN_DEVICE, constants.R_OK | constants.W_OK);
  } catch (error) {
    const attempt = `open ${TUN_DEVICE}`;
    if (errorCode(error) !== 'ENOENT') throw linkError(attempt, errorCode(error) ?? '', error);
    const remedy = `Load the kernel module tun (modprobe tun) or give the container ${TUN_DEVICE}.`;
    throw new LinkError('unsupported', attempt, { cause: error, remedy });
  }
}
