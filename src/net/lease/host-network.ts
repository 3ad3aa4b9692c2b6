/**
 * The network of a host (io): sandboxes lease from it.
 *
 *     open ──► reclaim what the dead have left ──► table there, pool free
 *     lease ─► address, TAP ─► forwarding ─► resolver, gateway ─► packet filter: only now anything passes
 *     release: the same backwards; a process that is killed leaves it to the next one that opens
 *
 * Any number of processes have a network at once. What they share lies in the kernel, where it is true even
 * after a kill: TAPs say whose they are in their alias, entries of the packet filter in a name. A lock makes
 * one of them at a time choose an address (docs/decisions/0010-network.md).
 */
import { accessSync, constants, readFileSync } from 'node:fs';
import { assert } from '../../base/assert.ts';
import { CleanupStack } from '../../base/cleanup.ts';
import { type Clock, systemClock } from '../../base/clock.ts';
import { describeError, errorCode } from '../../base/errors.ts';
import { parseSandboxId, type SandboxId } from '../../base/ids.ts';
import { ignore } from '../../base/ignore.ts';
import { type Log, silentLog } from '../../base/log.ts';
import { isRunning, startTicksOf } from '../../sys/process-start.ts';
import { TUN_DEVICE } from '../../sys/tun.ts';
import {
  type AddressLease,
  AddressPlan,
  assertPoolFree,
  GATEWAY_MAC,
  type Occupied,
  POOL_DEFAULT,
} from '../addresses/address-plan.ts';
import { type Cidr, cidrsOverlap, parseCidr } from '../addresses/addresses.ts';
import { parseResolvConf } from '../dns/resolv-conf.ts';
import type { DnsUpstream } from '../dns/upstream.ts';
import { NetError } from '../errors.ts';
import { OpenConnections } from '../gateway/gateway.ts';
import { HostLock } from '../host-lock.ts';
import { Forwarding } from '../link/forwarding.ts';
import { Links } from '../link/links.ts';
import { LinkRemoval, removeLink } from '../link/removal.ts';
import { confineLink } from '../link/settings.ts';
import { openTap, type Tap } from '../link/tap.ts';
import { lendTap } from '../link/tap-loan.ts';
import { LinkError, linkError } from '../netlink/errors.ts';
import { FlushGuard } from '../nftables/flush-guard.ts';
import { HostTable } from '../nftables/host-table.ts';
import { Nft } from '../nftables/nft.ts';
import { ownerCounter, type TableOwner } from '../nftables/table-owners.ts';
import { TableProbe } from '../nftables/table-probe.ts';
import { XdpAnchor } from '../xdp/anchor.ts';
import { GuardError, type MetadataGuard, MetadataGuards } from '../xdp/metadata-guard.ts';
import type { HostNetwork, NetworkLease, NetworkRequest } from './lease.ts';
import { LeaseRecords } from './record.ts';
import { SandboxLease, type SandboxLeaseOptions } from './sandbox-lease.ts';

/** The network is the host's, not a home's, so all of them share it; gone with the boot, as links are. */
export const STATE_DIR_DEFAULT = '/run/neurovisor';
const RESOLV_CONF = '/etc/resolv.conf';
const MTU_DEFAULT = 1500;
/** How long guests may be confined by nothing when another program has flushed the whole ruleset. */
const WATCH_MS = 500;
/** What gateways have seen is written down at every so many of these, a part of the leases at each. */
const RECORD_TURNS = 4;
/** Smaller ones are a mistake of the host's; IPv4 works from 576 (RFC 791, section 3.1). */
const MTU_MIN = 576;

interface HostNetworkOptions {
  /** CIDR that sandboxes are given addresses from; absent: `POOL_DEFAULT`. */
  readonly pool?: string;
  /** Of locks and of what was found; the same for every process of the host. */
  readonly stateDir?: string;
  /** Who is asked for names; absent: the resolvers of /etc/resolv.conf, read for each lease. */
  readonly upstreams?: readonly DnsUpstream[];
  readonly clock?: Clock;
  readonly log?: Log;
}

/**
 * @throws NetError `pool_invalid`, `pool_conflict`, `host_state`, `table_of_other_version`, `nft_missing`,
 * `nft_not_permitted`, `nft_refused`, `nft_failed`
 * @throws LinkError `unsupported`: no /dev/net/tun; `not_permitted` and others, from the reclaim
 */
export async function openHostNetwork(options: HostNetworkOptions = {}): Promise<HostNetwork> {
  assertTunDevice();
  const links = new Links();
  try {
    const network = new KernelNetwork(options, links);
    try {
      await network.prepare();
      return network;
    } catch (error) {
      await network[Symbol.asyncDispose]();
      throw error;
    }
  } catch (error) {
    links.close();
    throw error;
  }
}

/**
 * Takes away what processes that have ended left: what the next one to open the network would, and the empty
 * table besides. What the living have stays.
 * @throws as `openHostNetwork`
 */
export async function cleanHostNetwork(options: HostNetworkOptions = {}): Promise<void> {
  const network = new KernelNetwork(options, new Links());
  try {
    await network.clean();
  } finally {
    await network[Symbol.asyncDispose]();
  }
}

interface Taken {
  readonly addresses: AddressLease;
  readonly tap: Tap;
  readonly guard: MetadataGuard | undefined;
}

class KernelNetwork implements HostNetwork {
  readonly #options: HostNetworkOptions;
  readonly #links: Links;
  readonly #plan: AddressPlan;
  readonly #owner: TableOwner;
  readonly #lock: HostLock;
  readonly #table: HostTable;
  readonly #forwarding: Forwarding;
  readonly #records: LeaseRecords;
  readonly #probe = new TableProbe();
  readonly #removal: LinkRemoval;
  readonly #metadataGuards: MetadataGuards;
  readonly #anchor: XdpAnchor;
  readonly #connections = new OpenConnections();
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #leases = new Map<SandboxId, SandboxLease>();
  readonly #making = new Map<SandboxId, Promise<unknown>>();
  #closed: Promise<void> | undefined;
  #stopWatching: (() => void) | undefined;
  #flushGuard: FlushGuard | undefined;
  #watched = 0;
  #hasWarnedOfGuard = false;
  /** The table is there. */
  #isPrepared = false;

  constructor(options: HostNetworkOptions, links: Links) {
    const { pool = POOL_DEFAULT, stateDir = STATE_DIR_DEFAULT, log = silentLog } = options;
    this.#options = options;
    this.#links = links;
    this.#log = log;
    this.#clock = options.clock ?? systemClock;
    this.#plan = new AddressPlan(pool);
    this.#owner = { pid: process.pid, startTicks: startTicksOf(process.pid) ?? '' };
    this.#lock = new HostLock(stateDir);
    this.#removal = new LinkRemoval(links, process.pid);
    this.#metadataGuards = new MetadataGuards(links);
    this.#anchor = new XdpAnchor(links, this.#metadataGuards, process.pid, log);
    this.#forwarding = new Forwarding({ dir: stateDir });
    this.#records = new LeaseRecords(stateDir);
    this.#table = new HostTable({
      nft: new Nft({ clock: this.#clock }),
      reader: this.#probe,
      lock: this.#lock,
      owner: this.#owner,
      ours: () => [...this.#leases.values()].flatMap(({ installedRules }) => installedRules ?? []),
      log,
    });
  }

  async prepare(): Promise<void> {
    await this.#reclaim();
    this.#flushGuard = this.#makeFlushGuard();
    assertPoolFree(this.#plan.pool, occupiedBlocks(this.#links));
    this.#isPrepared = true;
  }

  async clean(): Promise<void> {
    await this.#reclaim();
    await this.#table.removeIfUnused();
  }

  /** Packet filter before links: until then, a TAP of the dead stays as confined as it was. */
  async #reclaim(): Promise<void> {
    await this.#table.prepare();
    await this.#lock.hold(() => {
      this.#removeDeadLinks();
      this.#records.removeDead();
    });
    await this.#forwarding.recover();
  }

  leases(): readonly NetworkLease[] {
    return [...this.#leases.values()];
  }

  /**
   * @throws NetError `closed`, `pool_exhausted`, `policy_too_large`, and as `openHostNetwork`
   * @throws LinkError, ListenError
   */
  async lease(request: NetworkRequest): Promise<NetworkLease> {
    const id = parseSandboxId(request.sandboxId);
    assert(id !== undefined, `a lease is for a sandbox id, not for ${request.sandboxId}`);
    assert(!this.#leases.has(id) && !this.#making.has(id), `one lease at a time for ${id}`);
    if (this.#closed !== undefined) throw closedError(id);
    const making = this.#make(id, request);
    const settled = making.catch((error: unknown) => ignore(error, 'the caller has it'));
    this.#making.set(id, settled);
    try {
      return await making;
    } finally {
      this.#making.delete(id);
    }
  }

  /** Releases what is leased, and closes. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  /** A question to the kernel, of microseconds, now and then while there are leases. */
  #watch(): void {
    this.#stopWatching ??= this.#clock.after(WATCH_MS, () => {
      this.#stopWatching = undefined;
      if (this.#closed !== undefined || this.#leases.size === 0) return;
      void this.#restore().then(() => this.#watch());
    });
  }

  async #restore(): Promise<void> {
    try {
      if (this.#isMissing()) await this.#table.repair();
      else this.#updateBytesUsed();
    } catch (error) {
      this.#log.error('restore the packet filter', { error: describeError(error) });
    }
  }

  #updateBytesUsed(): void {
    for (const [index, lease] of [...this.#leases.values()].entries()) {
      if ((this.#watched + index) % RECORD_TURNS === 0) lease.recordUse();
      if (lease.limits.bytesMax === undefined || lease.installedAddresses === undefined) continue;
      const used = this.#probe.budgetUsed(lease.installedAddresses.id);
      if (used !== undefined) lease.updateBytesUsed(used);
    }
  }

  /** One lease each time, in turn: who flushes, flushes all of them. */
  #isMissing(): boolean {
    const ours = [...this.#leases.values()].flatMap(
      ({ installedAddresses }) => installedAddresses ?? [],
    );
    const one = ours[this.#watched % ours.length];
    this.#watched += 1;
    if (one === undefined) return false;
    return !this.#probe.hasCounter(ownerCounter(one, this.#owner));
  }

  async #close(): Promise<void> {
    this.#stopWatching?.();
    await Promise.all(this.#making.values());
    // All at once, which the packet filter makes one transaction of.
    const releases = [...this.#leases.values()].map((lease) => lease.release());
    const ends = await Promise.allSettled([...releases, this.#anchor.close()]);
    // Where another process has opened the network and leased nothing yet, its first lease makes it anew.
    const table = this.#isPrepared ? [this.#table.removeIfUnused()] : [];
    const failures = [...ends, ...(await Promise.allSettled(table))].flatMap((each) =>
      each.status === 'rejected' ? [each.reason as unknown] : [],
    );
    this.#metadataGuards.close();
    this.#flushGuard?.close();
    this.#links.close();
    this.#probe.close();
    if (failures.length > 0) throw new AggregateError(failures, 'release networks of sandboxes');
  }

  async #make(id: SandboxId, request: NetworkRequest): Promise<NetworkLease> {
    const cleanup = new CleanupStack();
    try {
      const mtu = uplinkMtu(this.#links);
      const { addresses, tap, guard } = await this.#takeTap(id, mtu, cleanup);
      await this.#forwarding.acquire();
      cleanup.push('forwarding', () => this.#forwarding.release());
      const { upstreams = hostResolvers(this.#log) } = this.#options;
      const { policy, limits = {}, bytesUsed = 0, destinationBytesUsed = {}, secrets } = request;
      const terms = { policy, limits, bytesUsed, destinationBytesUsed, secrets };
      const lend: NetworkLease['lend'] = (...to) => this.#lend({ addresses, tap }, ...to);
      const own = { addresses, tap, lend, guard, mtu, ...terms, upstreams, clock: this.#clock };
      const record: SandboxLeaseOptions['record'] = (...now) =>
        this.#records.write(id, this.#owner, ...now);
      cleanup.push('record', () => this.#records.remove(id));
      const lease = new SandboxLease(
        { ...own, table: this.#table, connections: this.#connections, record, log: this.#log },
        cleanup,
      );
      await lease.open();
      if (this.#closed !== undefined) throw closedError(id);
      this.#leases.set(id, lease);
      this.#watch();
      return lease;
    } catch (error) {
      await this.#undo(cleanup, id);
      throw error;
    }
  }

  /** The failure that made it necessary is the one to tell. */
  async #undo(cleanup: CleanupStack, id: SandboxId): Promise<void> {
    try {
      await cleanup.run();
    } catch (error) {
      this.#log.error('undo a lease', { sandbox: id, error: describeError(error) });
    }
  }

  /** Chosen and put on the TAP in one go, so that no other process can choose the same. */
  #takeTap(id: SandboxId, mtu: number, cleanup: CleanupStack): Promise<Taken> {
    return this.#lock.hold(() => {
      const taken = this.#links.addresses().flatMap(({ address }) => blockOf(`${address}/32`));
      const addresses = this.#plan.lease(id, (subnet) =>
        taken.some((block) => cidrsOverlap(block, subnet)),
      );
      cleanup.push('addresses', () => {
        this.#leases.delete(id);
        this.#plan.release(id);
      });
      const owner = { ...this.#owner, sandboxId: id };
      const tap = openTap(this.#links, { name: addresses.tap, owner, mac: GATEWAY_MAC, mtu });
      cleanup.push('TAP', () => this.#removal.remove(tap));
      const guard = this.#guardMetadata(tap);
      cleanup.push('metadata guard', () => guard?.close());
      this.#raise(tap, addresses);
      return { addresses, tap, guard };
    });
  }

  /** On a kernel that has no such tables guests are confined by nothing until the table is there again. */
  #makeFlushGuard(): FlushGuard | undefined {
    try {
      return new FlushGuard(this.#owner);
    } catch (error) {
      if (!(error instanceof LinkError)) throw error;
      const what = 'a flush of the ruleset by another program would open guests for half a second';
      this.#log.warn(what, { error: describeError(error) });
      return undefined;
    }
  }

  /** One more place that drops what the packet filter drops too, so a host without BPF is told and goes on. */
  #guardMetadata({ linkIndex }: Tap): MetadataGuard | undefined {
    try {
      const guard = this.#metadataGuards.guard(linkIndex);
      this.#anchor.hold();
      return guard;
    } catch (error) {
      if (!(error instanceof GuardError)) throw error;
      if (!this.#hasWarnedOfGuard) {
        const { remedy } = error;
        const what =
          'metadata services are kept from guests by the packet filter alone, not by XDP';
        this.#log.warn(what, { error: describeError(error), remedy });
      }
      this.#hasWarnedOfGuard = true;
      return undefined;
    }
  }

  #raise({ linkIndex }: Tap, { hostAddress, guestAddress, guestMac, prefix }: AddressLease): void {
    this.#links.addAddress({ linkIndex, address: hostAddress, prefixLength: prefix });
    this.#links.change(linkIndex, { up: true });
    this.#links.setNeighbor(linkIndex, guestAddress, guestMac);
  }

  /** Others must not choose its addresses while no link has them. */
  #lend(
    { addresses, tap }: Pick<Taken, 'addresses' | 'tap'>,
    ...to: Parameters<NetworkLease['lend']>
  ): Promise<void> {
    return this.#lock.hold(async () => {
      if (!(await lendTap(tap, ...to, this.#clock))) return;
      if (this.#links.find(tap.linkIndex)?.name !== tap.name) {
        throw new LinkError('exists', `TAP ${tap.name}: its number is another link's now`);
      }
      // Of the link the kernel keeps name, number, MAC, alias and XDP, and no setting.
      confineLink(tap.name);
      this.#raise(tap, addresses);
    });
  }

  #removeDeadLinks(): void {
    for (const { link, owner } of this.#links.owned()) {
      if (isRunning(owner)) continue;
      this.#log.info('remove a TAP of a dead process', { name: link.name, pid: owner.pid });
      removeLink(this.#links, link.index);
    }
  }
}

/** What others on this host have; TAPs of ours are no conflict. */
export function occupiedBlocks(links: Links): Occupied[] {
  const names = new Map(links.list().map(({ index, name }) => [index, name]));
  const ours = new Set(links.owned().map(({ link }) => link.index));
  const nameOf = (index: number | undefined): string => names.get(index ?? 0) ?? 'several links';
  const routes = links.routes().flatMap(({ destination, linkIndex }) => {
    if (linkIndex !== undefined && ours.has(linkIndex)) return [];
    return blockOf(destination).map((block) => ({ block, what: `route by ${nameOf(linkIndex)}` }));
  });
  const addresses = links.addresses().flatMap(({ address, prefixLength, linkIndex }) => {
    if (ours.has(linkIndex)) return [];
    const what = `address of ${nameOf(linkIndex)}`;
    return blockOf(`${address}/32`).map((block) => ({ block: widened(block, prefixLength), what }));
  });
  return [...routes, ...addresses];
}

/** IPv4 only. */
function blockOf(text: string): Cidr[] {
  const reading = parseCidr(text);
  return reading.ok && reading.cidr.family === 4 ? [reading.cidr] : [];
}

/** The block of this length that `block`, a single address, lies in. */
function widened({ family, base }: Cidr, prefix: number): Cidr {
  const hostBits = BigInt(32 - prefix);
  return { family, base: (base >> hostBits) << hostBits, prefix };
}

/** A packet that the guest makes as large as its link allows should leave the host in one piece. */
function uplinkMtu(links: Links): number {
  const route = links.routes().find(({ destination }) => destination === '0.0.0.0/0');
  const mtu = route?.linkIndex === undefined ? undefined : links.find(route.linkIndex)?.mtu;
  return Math.max(MTU_MIN, Math.min(MTU_DEFAULT, mtu ?? MTU_DEFAULT));
}

function hostResolvers(log: Log): readonly DnsUpstream[] {
  let text = '';
  try {
    text = readFileSync(RESOLV_CONF, 'utf8');
  } catch (error) {
    log.warn('read the resolvers of the host', { error: describeError(error) });
  }
  const resolvers = parseResolvConf(text);
  if (resolvers.length === 0) log.warn('no resolver: guests are told no names', { RESOLV_CONF });
  return resolvers;
}

function assertTunDevice(): void {
  try {
    accessSync(TUN_DEVICE, constants.R_OK | constants.W_OK);
  } catch (error) {
    const attempt = `open ${TUN_DEVICE}`;
    if (errorCode(error) !== 'ENOENT') throw linkError(attempt, errorCode(error) ?? '', error);
    const remedy = `Load the kernel module tun (modprobe tun) or give the container ${TUN_DEVICE}.`;
    throw new LinkError('unsupported', attempt, { cause: error, remedy });
  }
}

function closedError(id: SandboxId): NetError {
  return new NetError('closed', `lease a network to ${id}: it is being closed`);
}
