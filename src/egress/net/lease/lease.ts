/**
 * A sandbox's part of the host's network: one TAP, one address pair, one policy. Types only.
 *
 *     HostNetwork.lease ──► tapFd ──► VMM ──► NIC of the guest
 *                      └──► settings ──► agent: address, route, neighbor, resolver
 */

import type { Duplex } from 'node:stream';
import type { GuestNetwork } from '../../../base/request/guest-network.ts';
import type { TapBorrower } from '../link/tap-loan.ts';
import type { TrafficLimits } from '../nftables/sandbox-chains.ts';
import type { BytesByName, DestinationLimit, DestinationUse } from '../policy/destination-budgets.ts';
import type { EgressPolicy } from '../policy/policy.ts';
import type { EgressSecrets } from '../secret/secret.ts';

/** Counted by the kernel since the lease began. */
export interface NetworkTraffic {
  readonly packetsOut: number;
  readonly bytesOut: number;
  readonly packetsIn: number;
  readonly bytesIn: number;
  /** Refused packets by reason (`metadata`, `spoofed`, `unlisted`, …). */
  readonly refused: Readonly<Record<string, number>>;
  /** Used part of the budget `bytesMax`, including earlier leases; never exceeds it. */
  readonly bytesUsed: number;
}

/** The packet filter enforces these, except limits by name. */
export interface LeaseLimits extends TrafficLimits {
  /** The gateway enforces these for traffic that passes it. */
  readonly destinations?: readonly DestinationLimit[];
}

/** Counted by the gateway since the lease began. */
export interface GatewayUse {
  readonly allowed: number;
  /** Refused connections and requests, and connections that were ended, by reason. */
  readonly refused: Readonly<Record<string, number>>;
  /** Usage of limits by name, including earlier leases. */
  readonly destinations: readonly DestinationUse[];
}

export interface NetworkLease {
  readonly interfaceName: string;
  /** A TAP with virtio-net headers; open in this process until `confirmHandover`. */
  readonly tapFd: number;
  readonly guest: GuestNetwork;
  readonly policy: EgressPolicy;
  readonly limits: LeaseLimits;
  /** Closes `tapFd`: the VMM has its own copy, and from now on the TAP exists as long as the VMM holds it. */
  confirmHandover(): Promise<void>;
  /**
   * Lends the TAP to a VMM that opens it by name instead of inheriting `tapFd`, which is closed. While `open` runs, the
   * TAP is in the VMM's network namespace and passes no traffic. Afterwards it is restored.
   * @param open makes the VMM open the TAP of that name
   * @throws LinkError, NetError `host_state` if the lease is unusable; and what `open` throws
   */
  lend(borrower: TapBorrower, open: (name: string) => Promise<void>): Promise<void>;
  /**
   * Applies to new connections; open ones that it forbids are closed.
   * @param limits absent to keep the current ones. Usage of a budget stays; a changed connection limit counts from 0.
   */
  setPolicy(policy: EgressPolicy, limits?: LeaseLimits): Promise<void>;
  /**
   * Also allows the hosts of the secrets, and closes connections that began with others. Undefined removes the secrets.
   */
  setSecrets(secrets: EgressSecrets | undefined): Promise<void>;
  /**
   * Connects from the host to a port of the guest, whatever the policy. Ends with the lease.
   * @throws NetError `guest_unreachable`, `guest_connections`, `closed`
   */
  connect(port: number, signal?: AbortSignal): Promise<Duplex>;
  traffic(): Promise<NetworkTraffic>;
  gatewayUse(): GatewayUse;
  /** Removes everything from the host. Idempotent. */
  release(): Promise<void>;
}

export interface NetworkRequest {
  readonly sandboxId: string;
  readonly policy: EgressPolicy;
  readonly limits?: LeaseLimits;
  /** Part of `limits.bytesMax` that earlier leases of the sandbox used. */
  readonly bytesUsed?: number;
  /** Likewise for `limits.destinations`. */
  readonly destinationBytesUsed?: BytesByName;
  readonly secrets?: EgressSecrets | undefined;
}

/** The network of this host; opened by the first sandbox that needs one. */
export interface HostNetwork extends AsyncDisposable {
  /** @throws NetError */
  lease(request: NetworkRequest): Promise<NetworkLease>;
  leases(): readonly NetworkLease[];
}
