/** Settings of one link under /proc/sys/net (Documentation/networking/ip-sysctl.rst), of this namespace. */
import { readFileSync, writeFileSync } from 'node:fs';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { linkError } from '../netlink/errors.ts';

/** What a link to a guest must not do, each with its reason. */
const GUEST_LINK_SETTINGS: readonly (readonly [path: string, value: string])[] = [
  // No address that a guest could reach the host by, no router solicitation, no packet of IPv6 taken.
  ['ipv6/conf/*/disable_ipv6', '1'],
  // Only for addresses of this very link: by default Linux answers ARP for every address of the host.
  ['ipv4/conf/*/arp_ignore', '1'],
  ['ipv4/conf/*/arp_announce', '2'],
  // A packet whose source is not reached by this link is dropped.
  ['ipv4/conf/*/rp_filter', '1'],
  // A guest has no say in the host's routes, and is told of no others.
  ['ipv4/conf/*/accept_redirects', '0'],
  ['ipv4/conf/*/send_redirects', '0'],
  ['ipv4/conf/*/accept_source_route', '0'],
];

/**
 * Sets them for a link that is not up yet. A kernel without IPv6 lacks that file, which is as good.
 * @throws LinkError `not_permitted`, `failed`
 */
export function confineLink(name: string): void {
  for (const [pattern, value] of GUEST_LINK_SETTINGS) {
    const path = `/proc/sys/net/${pattern.replace('*', name)}`;
    try {
      // Containers often have these read-only, and some already right.
      if (readFileSync(path, 'latin1').trim() !== value) writeFileSync(path, value);
    } catch (error) {
      if (errorCode(error) === 'ENOENT' && pattern.startsWith('ipv6')) {
        ignore(error, 'this kernel has no IPv6');
        continue;
      }
      throw linkError(`set ${path} to ${value}`, errorCode(error) ?? '', error);
    }
  }
}
