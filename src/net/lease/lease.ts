/**
 * What a sandbox has of the host's network (types only): one TAP, one address pair, one policy.
 *
 *     HostNetwork.lease ──► tapFd ──► VMM ──► NIC of the guest
 *                      └──► settings ──► agent: address, route, neighbor, resolver
 */

import type { Duplex } from 'node:stream';
import type { GuestNetwork } from '../../base/guest-network.ts';
import type { TapBorrower } from '../link/tap-loan.ts';
import type { TrafficLimits } from '../nftables/sandbox-chains.ts';
import type {
  BytesByName,
  DestinationLimit,
  DestinationUse,
} from '../policy/destination-budgets.ts';
import type { EgressPolicy } from '../policy/policy.ts';
import type { EgressSecrets } from '../secret/secret.ts';

/** Counted by the kernel since the lease began. */
export interface NetworkTraffic {
  readonly packetsOut: number;
  readonly bytesOut: number;
  readonly packetsIn: number;
  readonly bytesIn: number;
  /** Packets that were refused, by reason (`metadata`, `spoofed`, `policy`, …). */
  readonly refused: Readonly<Record<string, number>>;
  /** Of the budget `bytesMax`, never more than that; those of earlier leases included. */
  readonly bytesUsed: number;
}

/** How much of the network: the packet filter holds all of it but what is by name. */
export interface LeaseLimits extends TrafficLimits {
  /** Of what passes the gateway, which holds them. */
  readonly destinations?: readonly DestinationLimit[];
}

/** What the gateway has seen since the lease began. */
export interface GatewayUse {
  /** TLS connections and HTTP requests that passed. */
  readonly allowed: number;
  /** Connections and requests that did not, and connections that were ended, by reason. */
  readonly refused: Readonly<Record<string, number>>;
  /** Of limits by name; bytes of earlier leases included. */
  readonly destinations: readonly DestinationUse[];
}

export interface NetworkLease {
  readonly interfaceName: string;
  /** Of a TAP with virtio-net headers; ours until `confirmHandover`. */
  readonly tapFd: number;
  readonly guest: GuestNetwork;
  readonly policy: EgressPolicy;
  readonly limits: LeaseLimits;
  /** The VMM has its own copy of the descriptor: from now on the TAP lives as long as the VMM holds it. */
  confirmHandover(): Promise<void>;
  /**
   * To a VMM that opens its TAP by name, instead of inheriting `tapFd`, which is closed: the TAP is in the VMM's
   * network namespace while `open` runs, and nothing passes it. Afterwards it is as it was, until `release`.
   * @param open has the VMM open the TAP of that name
   * @throws LinkError, NetError `host_state`: the lease is of no use then; and what `open` throws
   */
  lend(borrower: TapBorrower, open: (name: string) => Promise<void>): Promise<void>;
  /**
   * Holds for connections from now on; those that it forbids are closed.
   * @param limits absent: as they are. What is used of a budget stays used; connections are counted anew when
   * their limit is another.
   */
  setPolicy(policy: EgressPolicy, limits?: LeaseLimits): Promise<void>;
  /** Their hosts are allowed too; connections that began with others are closed. Undefined: none. */
  setSecrets(secrets: EgressSecrets | undefined): Promise<void>;
  /**
   * From the host to what listens at the guest's address; ends with the lease. Whatever the policy is.
   * @throws NetError `guest_unreachable`, `guest_connections`, `closed`
   */
  connect(port: number, signal?: AbortSignal): Promise<Duplex>;
  traffic(): Promise<NetworkTraffic>;
  gatewayUse(): GatewayUse;
  /** Idempotent. Nothing of it is left on the host. */
  release(): Promise<void>;
}

export interface NetworkRequest {
  readonly sandboxId: string;
  readonly policy: EgressPolicy;
  readonly limits?: LeaseLimits;
  /** Of `limits.bytesMax`, by earlier leases of the sandbox. */
  readonly bytesUsed?: number;
  /** The same of `limits.destinations`. */
  readonly destinationBytesUsed?: BytesByName;
  readonly secrets?: EgressSecrets | undefined;
}

/** The network of this host; opened by the first sandbox that asks for one. */
export interface HostNetwork extends AsyncDisposable {
  /** @throws NetError */
  lease(request: NetworkRequest): Promise<NetworkLease>;
  leases(): readonly NetworkLease[];
}
