/**
 * The TAPs of this process's sandboxes, each with its addresses and its metadata guard (io).
 *
 * Other processes choose addresses from the same pool, so addresses are chosen and assigned to the TAP under the host's
 * lock.
 */
import type { CleanupStack } from '../../../base/cleanup.ts';
import type { Clock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import type { SandboxId } from '../../../base/ids.ts';
import type { Log } from '../../../base/log.ts';
import { isRunning } from '../../../sys/process-start.ts';
import { type AddressLease, AddressPlan, assertPoolFree, GATEWAY_MAC } from '../addresses/address-plan.ts';
import { cidrsOverlap } from '../addresses/addresses.ts';
import type { HostLock } from '../host-lock.ts';
import { keepMac } from '../link/kept-mac.ts';
import type { Links } from '../link/links.ts';
import { LinkRemoval, removeLink } from '../link/removal.ts';
import { confineLink } from '../link/settings.ts';
import { openTap, type Tap } from '../link/tap.ts';
import { lendTap } from '../link/tap-loan.ts';
import { LinkError } from '../netlink/errors.ts';
import type { TableOwner } from '../nftables/table-owners.ts';
import { XdpAnchor } from '../xdp/anchor.ts';
import { GuardError, type MetadataGuard, MetadataGuards } from '../xdp/metadata-guard.ts';
import { ipv4Block, occupiedBlocks } from './host-view.ts';
import type { NetworkLease } from './lease.ts';

export interface SandboxTap {
  readonly addresses: AddressLease;
  readonly tap: Tap;
  /** Undefined if this host does not let us use BPF. */
  readonly guard: MetadataGuard | undefined;
}

interface SandboxTapsOptions {
  /** CIDR. */
  readonly pool: string;
  readonly links: Links;
  readonly lock: HostLock;
  readonly owner: TableOwner;
  readonly clock: Clock;
  readonly log: Log;
}

export class SandboxTaps {
  readonly #options: SandboxTapsOptions;
  readonly #plan: AddressPlan;
  readonly #removal: LinkRemoval;
  readonly #guards: MetadataGuards;
  readonly #anchor: XdpAnchor;
  #hasWarnedOfGuard = false;

  /** @throws NetError `pool_invalid` */
  constructor(options: SandboxTapsOptions) {
    const { pool, links, owner, log } = options;
    this.#options = options;
    this.#plan = new AddressPlan(pool);
    this.#removal = new LinkRemoval(links, owner.pid);
    this.#guards = new MetadataGuards(links);
    this.#anchor = new XdpAnchor(links, this.#guards, owner.pid, log);
  }

  /** @throws NetError `pool_conflict` */
  assertPoolFree(): void {
    assertPoolFree(this.#plan.pool, occupiedBlocks(this.#options.links));
  }

  /** Removes the TAPs of dead processes. The caller must hold the lock. */
  removeDead(): void {
    const { links, log } = this.#options;
    for (const { link, owner } of links.owned()) {
      if (isRunning(owner)) continue;
      log.info('remove a TAP of a dead process', { name: link.name, pid: owner.pid });
      removeLink(links, link.index);
    }
  }

  /** @param cleanup receives the steps that undo it. @throws NetError `pool_exhausted`; LinkError */
  acquire(id: SandboxId, mtu: number, cleanup: CleanupStack): Promise<SandboxTap> {
    const { links, lock, owner } = this.#options;
    return lock.hold(() => {
      const used = links.addresses().flatMap(({ address }) => ipv4Block(`${address}/32`));
      const addresses = this.#plan.lease(id, (subnet) => used.some((block) => cidrsOverlap(block, subnet)));
      cleanup.push('addresses', () => this.#plan.release(id));
      const tap = openTap(links, { name: addresses.tap, owner: { ...owner, sandboxId: id }, mac: GATEWAY_MAC, mtu });
      cleanup.push('TAP', () => this.#removal.remove(tap));
      const guard = this.#guardMetadata(tap);
      cleanup.push('metadata guard', () => guard?.close());
      this.#raise(tap, addresses);
      cleanup.push('MAC', keepMac(this.#options, tap.linkIndex, GATEWAY_MAC));
      return { addresses, tap, guard };
    });
  }

  /** See `NetworkLease.lend`. Holds the lock: meanwhile no link has the addresses, but they are not free. */
  lend({ addresses, tap }: SandboxTap, ...to: Parameters<NetworkLease['lend']>): Promise<void> {
    const { links, lock, clock } = this.#options;
    return lock.hold(async () => {
      if (!(await lendTap(tap, ...to, clock))) return;
      if (links.find(tap.linkIndex)?.name !== tap.name) {
        throw new LinkError('exists', `TAP ${tap.name}: another link has its index now`);
      }
      // The kernel keeps the link's name, index, MAC, alias and XDP, but none of its settings.
      confineLink(tap.name);
      this.#raise(tap, addresses);
    });
  }

  async close(): Promise<void> {
    await this.#anchor.close();
  }

  /** Call after the last TAP is removed. */
  closeGuards(): void {
    this.#guards.close();
  }

  /** A second defense beside the packet filter: a host without BPF gets a warning and no guard. */
  #guardMetadata({ linkIndex }: Tap): MetadataGuard | undefined {
    try {
      const guard = this.#guards.guard(linkIndex);
      this.#anchor.hold();
      return guard;
    } catch (error) {
      if (!(error instanceof GuardError)) throw error;
      if (!this.#hasWarnedOfGuard) {
        this.#options.log.warn('metadata services are blocked by the packet filter alone, not by XDP', {
          error: describeError(error),
          remedy: error.remedy,
        });
      }
      this.#hasWarnedOfGuard = true;
      return undefined;
    }
  }

  #raise({ linkIndex }: Tap, { hostAddress, guestAddress, guestMac, prefix }: AddressLease): void {
    const { links } = this.#options;
    links.addAddress({ linkIndex, address: hostAddress, prefixLength: prefix });
    links.change(linkIndex, { up: true });
    links.setNeighbor(linkIndex, guestAddress, guestMac);
  }
}
