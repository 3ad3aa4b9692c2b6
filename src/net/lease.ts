/**
 * What a sandbox has of the host's network (types only): one TAP, one address pair, one policy.
 *
 *     HostNetwork.lease ──► tapFd ──► VMM ──► NIC of the guest
 *                      └──► settings ──► agent: address, route, neighbour, resolver
 */
import type { GuestNetwork } from '../base/guest-network.ts';
import type { EgressPolicy } from './policy.ts';
import type { EgressSecrets } from './secret.ts';

/** Counted by the kernel since the lease began. */
export interface NetworkTraffic {
  readonly packetsOut: number;
  readonly bytesOut: number;
  readonly packetsIn: number;
  readonly bytesIn: number;
  /** Packets that were refused, by reason (`metadata`, `spoofed`, `policy`, …). */
  readonly refused: Readonly<Record<string, number>>;
}

export interface NetworkLease {
  readonly interfaceName: string;
  /** Of a TAP with virtio-net headers; ours until `handedOver`. */
  readonly tapFd: number;
  readonly guest: GuestNetwork;
  readonly policy: EgressPolicy;
  /** The VMM has its own copy of the descriptor: from now on the TAP lives as long as the VMM holds it. */
  handedOver(): Promise<void>;
  /** Holds for connections from now on; those that it forbids are closed. */
  setPolicy(policy: EgressPolicy): Promise<void>;
  /** Their hosts are allowed too; connections that began with others are closed. Undefined: none. */
  setSecrets(secrets: EgressSecrets | undefined): Promise<void>;
  traffic(): Promise<NetworkTraffic>;
  /** Idempotent. Nothing of it is left on the host. */
  release(): Promise<void>;
}

export interface NetworkRequest {
  readonly sandboxId: string;
  readonly policy: EgressPolicy;
  readonly secrets?: EgressSecrets | undefined;
}

/** The network of this host; opened by the first sandbox that asks for one. */
export interface HostNetwork extends AsyncDisposable {
  /** @throws NetError */
  lease(request: NetworkRequest): Promise<NetworkLease>;
  leases(): readonly NetworkLease[];
}
