/**
 * The network of a host (io), from which sandboxes lease.
 *
 *     open ──► reclaim resources of dead processes ──► create the table, check that the pool is free
 *     lease ─► addresses, TAP ─► forwarding ─► resolver, gateway ─► packet filter: from here on traffic passes
 *     release: in reverse order; for a killed process, the next one that opens the network does it
 *
 * Any number of processes use the network at once. Their shared state is in the kernel, where it is true even after a
 * kill: the alias of a TAP and a name in the packet filter say which process owns it. A lock lets one process at a time
 * choose an address (docs/decisions/0010-network.md).
 */
import { assert } from '../../../base/assert.ts';
import { CleanupStack } from '../../../base/cleanup.ts';
import { type Clock, systemClock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import { parseSandboxId, type SandboxId } from '../../../base/ids.ts';
import { ignore } from '../../../base/ignore.ts';
import { type Log, silentLog } from '../../../base/log.ts';
import { startTicksOf } from '../../../sys/process-start.ts';
import { POOL_DEFAULT } from '../addresses/address-plan.ts';
import type { DnsUpstream } from '../dns/upstream.ts';
import { NetError } from '../errors.ts';
import { HostLock } from '../host-lock.ts';
import { Forwarding } from '../link/forwarding.ts';
import { Links } from '../link/links.ts';
import { LinkError } from '../netlink/errors.ts';
import { FlushGuard } from '../nftables/flush-guard.ts';
import { HostTable } from '../nftables/host-table.ts';
import { Nft } from '../nftables/nft.ts';
import { readBudgets } from '../nftables/sandbox-counters.ts';
import type { TableOwner } from '../nftables/table-owners.ts';
import { TableProbe } from '../nftables/table-probe.ts';
import { assertTunDevice, hostResolvers, uplinkMtu } from './host-view.ts';
import type { HostNetwork, NetworkLease, NetworkRequest } from './lease.ts';
import { LeaseRecords, widestUse } from './record.ts';
import { SandboxLease } from './sandbox-lease.ts';
import { SandboxTaps } from './sandbox-taps.ts';
import { NetworkShares } from './shares.ts';
import { TableWatch } from './table-watch.ts';

/** Shared by all homes, since the network belongs to the host. Cleared by a reboot, like links. */
export const STATE_DIR_DEFAULT = '/run/neurovisor';

interface HostNetworkOptions {
  /** CIDR of the sandboxes' addresses. Default `POOL_DEFAULT`. */
  readonly pool?: string;
  /** For locks and records; equal for every process of the host. */
  readonly stateDir?: string;
  /** Default: the resolvers of /etc/resolv.conf, read for each lease. */
  readonly upstreams?: readonly DnsUpstream[];
  readonly clock?: Clock;
  readonly log?: Log;
}

/**
 * @throws NetError `pool_invalid`, `pool_conflict`, `host_state`, `table_of_other_version`, `nft_missing`,
 * `nft_not_permitted`, `nft_refused`, `nft_failed`
 * @throws LinkError `unsupported` without /dev/net/tun; `not_permitted` and others, from the reclaim
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
 * Reclaims resources of dead processes, as the next `openHostNetwork` would, and removes the table if it is empty.
 * Leases of running processes stay.
 * @throws as `openHostNetwork`
 */
export async function cleanHostNetwork(options: HostNetworkOptions = {}): Promise<void> {
  await using network = new KernelNetwork(options, new Links());
  await network.clean();
}

class KernelNetwork implements HostNetwork {
  readonly #upstreams: readonly DnsUpstream[] | undefined;
  readonly #links: Links;
  readonly #owner: TableOwner;
  readonly #lock: HostLock;
  readonly #taps: SandboxTaps;
  readonly #table: HostTable;
  readonly #probe = new TableProbe();
  readonly #watch: TableWatch;
  readonly #forwarding: Forwarding;
  readonly #records: LeaseRecords;
  readonly #shares = new NetworkShares();
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #leases = new Map<SandboxId, SandboxLease>();
  readonly #making = new Map<SandboxId, Promise<unknown>>();
  #closed: Promise<void> | undefined;
  #flushGuard: FlushGuard | undefined;
  /** True if the table exists. */
  #isPrepared = false;

  constructor(options: HostNetworkOptions, links: Links) {
    const { pool = POOL_DEFAULT, stateDir = STATE_DIR_DEFAULT } = options;
    const { clock = systemClock, log = silentLog, upstreams } = options;
    const owner = { pid: process.pid, startTicks: startTicksOf(process.pid) ?? '' };
    const lock = new HostLock(stateDir);
    this.#upstreams = upstreams;
    this.#links = links;
    this.#owner = owner;
    this.#lock = lock;
    this.#clock = clock;
    this.#log = log;
    this.#taps = new SandboxTaps({ pool, links, lock, owner, clock, log });
    this.#forwarding = new Forwarding({ dir: stateDir });
    this.#records = new LeaseRecords(stateDir);
    const leases = () => [...this.#leases.values()];
    const table = new HostTable({
      nft: new Nft({ clock }),
      reader: this.#probe,
      lock,
      owner,
      ours: () => leases().flatMap(({ installedRules }) => installedRules ?? []),
      log,
    });
    this.#table = table;
    this.#watch = new TableWatch({ table, probe: this.#probe, owner, leases, clock, log });
  }

  async prepare(): Promise<void> {
    await this.#reclaim();
    this.#flushGuard = this.#makeFlushGuard();
    this.#taps.assertPoolFree();
    this.#isPrepared = true;
  }

  async clean(): Promise<void> {
    await this.#reclaim();
    await this.#table.removeIfUnused();
  }

  /** Packet filter before links: until then, the TAP of a dead process stays as confined as it was. */
  async #reclaim(): Promise<void> {
    await this.#lock.hold(() => this.#records.keepUse(readBudgets(this.#probe.listQuotas())));
    await this.#table.prepare();
    await this.#lock.hold(() => {
      this.#taps.removeDead();
      this.#records.removeDead(this.#clock.wall());
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
    return await making.finally(() => this.#making.delete(id));
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#watch.close();
    await Promise.all(this.#making.values());
    // Concurrently, so that the packet filter combines them into one transaction.
    const releases = [...this.#leases.values()].map((lease) => lease.release());
    const ends = await Promise.allSettled([...releases, this.#taps.close()]);
    // If another process has opened the network without a lease yet, its first lease creates the table again.
    const table = this.#isPrepared ? [this.#table.removeIfUnused()] : [];
    const failures = [...ends, ...(await Promise.allSettled(table))].flatMap((each) =>
      each.status === 'rejected' ? [each.reason as unknown] : [],
    );
    this.#taps.closeGuards();
    this.#flushGuard?.close();
    this.#links.close();
    this.#probe.close();
    if (failures.length > 0) throw new AggregateError(failures, 'release networks of sandboxes');
  }

  async #make(id: SandboxId, request: NetworkRequest): Promise<NetworkLease> {
    const cleanup = new CleanupStack();
    try {
      cleanup.push('lease', () => this.#leases.delete(id));
      const mtu = uplinkMtu(this.#links);
      const tap = await this.#taps.acquire(id, mtu, cleanup);
      await this.#forwarding.acquire();
      cleanup.push('forwarding', () => this.#forwarding.release());
      cleanup.push('record', () => this.#records.remove(id));
      const { policy, limits = {}, bytesUsed = 0, destinationBytesUsed = {}, secrets } = request;
      const lease = new SandboxLease(
        {
          ...tap,
          lend: (...to) => this.#taps.lend(tap, ...to),
          mtu,
          policy,
          limits,
          ...widestUse({ bytesUsed, destinationBytesUsed }, this.#records.leftUse(id)),
          secrets,
          table: this.#table,
          record: (...now) => this.#records.write(id, this.#owner, ...now),
          upstreams: this.#upstreams ?? hostResolvers(this.#log),
          shares: this.#shares,
          clock: this.#clock,
          log: this.#log,
        },
        cleanup,
      );
      await lease.open();
      this.#records.forgetUse(id);
      if (this.#closed !== undefined) throw closedError(id);
      this.#leases.set(id, lease);
      this.#watch.start();
      return lease;
    } catch (error) {
      await this.#undo(cleanup, id);
      throw error;
    }
  }

  /** Never throws: the caller reports the failure that made it necessary. */
  async #undo(cleanup: CleanupStack, id: SandboxId): Promise<void> {
    try {
      await cleanup.run();
    } catch (error) {
      this.#log.error('undo a lease', { sandbox: id, error: describeError(error) });
    }
  }

  /** Undefined on a kernel without owned tables: a flush then leaves guests unfiltered until the next check. */
  #makeFlushGuard(): FlushGuard | undefined {
    try {
      return new FlushGuard(this.#owner);
    } catch (error) {
      if (!(error instanceof LinkError)) throw error;
      const what = 'no guard: if another program flushes the ruleset, guests are unfiltered for 0.5 s';
      this.#log.warn(what, { error: describeError(error) });
      return undefined;
    }
  }
}

function closedError(id: SandboxId): NetError {
  return new NetError('closed', `lease a network to ${id}: the host network is closing`);
}
