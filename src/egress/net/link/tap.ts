/**
 * The host's end of a sandbox's network card. A VMM inherits its descriptor (`-netdev tap,fd=N,vhost=off`). When the
 * last copy is closed, also by the death of a process, the kernel removes the interface with its addresses, routes and
 * neighbors.
 */
import { close } from 'node:fs';
import { promisify } from 'node:util';
import { errorCode } from '../../../base/errors.ts';
import { closeFd } from '../../../sys/fd.ts';
import { createTap, keepTap, TUN_DEVICE } from '../../../sys/tun.ts';
import { encodeMac } from '../netlink/address.ts';
import { LinkError, linkError } from '../netlink/errors.ts';
import { isLinkName } from '../netlink/rtnetlink-link.ts';
import type { Links } from './links.ts';
import { formatOwner, type LinkOwner } from './owner.ts';
import { confineLink } from './settings.ts';

interface TapSpec {
  /** 1 to 15 characters, from `AddressPlan`. */
  readonly name: string;
  readonly owner: LinkOwner;
  /** The host's MAC address on it. Default: random. */
  readonly mac?: string;
  /** Largest packet in bytes. Default 1500. */
  readonly mtu?: number;
  /** The VMM's uid and gid, which may open it besides root. */
  readonly user?: { readonly uid: number; readonly gid: number };
  /** Stays when the last descriptor is closed, and must be removed. */
  readonly persistent?: boolean;
}

export interface Tap {
  readonly name: string;
  readonly linkIndex: number;
  /** Carries frames, each after a virtio-net header. Closed on exec unless passed to the child. */
  readonly fd: number;
  /**
   * Closes our copy of the descriptor once the VMM has its own, so that the VMM's death removes the TAP. Runs on
   * another thread, since the kernel takes 20 ms and more to remove a link. Idempotent.
   */
  close(): Promise<void>;
}

/**
 * Creates a TAP, marked as ours and confined, but not up. An error leaves nothing behind.
 * @throws LinkError `exists` if a link has that name; `not_permitted`; `unsupported` without /dev/net/tun; `invalid`
 */
export function openTap(links: Links, spec: TapSpec): Tap {
  const { name, owner, mac, mtu, user, persistent = false } = spec;
  if (!isLinkName(name)) throw new LinkError('invalid', `invalid TAP name "${name}"`);
  // Persistent only after everything else has worked, so that an error leaves nothing behind.
  const fd = create(name, user, mac);
  try {
    const link = links.find(name);
    if (link === undefined) throw new LinkError('not_found', `find TAP ${name} after its creation`);
    links.change(link.index, { alias: formatOwner(owner), ...(mtu === undefined ? {} : { mtu }) });
    confineLink(name);
    if (persistent) keepTap(fd);
    let closed: Promise<void> | undefined;
    return {
      name,
      linkIndex: link.index,
      fd,
      close: () => {
        closed ??= closeOffThread(fd);
        return closed;
      },
    };
  } catch (error) {
    closeFd(fd);
    throw error;
  }
}

const closeOffThread = promisify(close);

function create(name: string, user: TapSpec['user'], mac: TapSpec['mac']): number {
  const attempt = `create TAP ${name}`;
  try {
    return createTap({ name, owner: user, mac: mac === undefined ? undefined : encodeMac(mac) });
  } catch (error) {
    const code = errorCode(error) ?? '';
    if (code === 'EBUSY') throw linkError(attempt, 'EEXIST', error);
    if (code === 'ENOENT' || code === 'ENODEV' || code === 'ENXIO') {
      const remedy = `Load the kernel module tun (modprobe tun) or give the container ${TUN_DEVICE}.`;
      throw new LinkError('unsupported', attempt, { cause: error, remedy });
    }
    throw linkError(attempt, code, error);
  }
}
