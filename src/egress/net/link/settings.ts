/** Settings of one link under /proc/sys/net (Documentation/networking/ip-sysctl.rst), of this namespace. */
import { readFileSync, writeFileSync } from 'node:fs';
import { errorCode } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import { linkError } from '../netlink/errors.ts';

const GUEST_LINK_SETTINGS: readonly (readonly [path: string, value: string])[] = [
  // No IPv6: no link-local address to reach the host, no router solicitations.
  ['ipv6/conf/*/disable_ipv6', '1'],
  // ARP only for addresses of this link: by default Linux answers for every address of the host.
  ['ipv4/conf/*/arp_ignore', '1'],
  ['ipv4/conf/*/arp_announce', '2'],
  // Drop packets whose source is not reached through this link.
  ['ipv4/conf/*/rp_filter', '1'],
  // A guest can't change the host's routes, and gets none from it.
  ['ipv4/conf/*/accept_redirects', '0'],
  ['ipv4/conf/*/send_redirects', '0'],
  ['ipv4/conf/*/accept_source_route', '0'],
];

/**
 * Confines a link that is not up yet. The file is missing on a kernel without IPv6, which is fine.
 * @throws LinkError `not_permitted`, `failed`
 */
export function confineLink(name: string): void {
  for (const [pattern, value] of GUEST_LINK_SETTINGS) {
    const path = `/proc/sys/net/${pattern.replace('*', name)}`;
    try {
      // These are often read-only in containers, sometimes with the right value.
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
