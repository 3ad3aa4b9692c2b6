/**
 * The network card of one VM, from its lease to its end.
 *
 *     none ──lease──► leased ──(the VM starts with it, or it is plugged)──► plugged ──unplug──► none
 *
 * The supervisor owns the card and makes one change at a time; the end of the VM may come at any moment.
 */
import type { Duplex } from 'node:stream';
import { awaitOr, ignore } from '../../base/ignore.ts';
import type { GuestNetwork } from '../../base/request/guest-network.ts';
import type { GatewayUse } from '../../egress/net/lease/lease.ts';
import type { BytesByName } from '../../egress/net/policy/destination-budgets.ts';
import type { EgressPolicy } from '../../egress/net/policy/policy.ts';
import type { Guest } from '../../machine/guest/link.ts';
import type { NicSpec, Vm } from '../../machine/vmm/driver.ts';
import { SandboxError } from '../contract/errors.ts';
import type { NetworkSpec } from '../contract/network-spec.ts';
import type { CardLease, GuestTrust, LeaseSecrets, SandboxParts } from '../contract/parts.ts';
import type { SandboxSecret } from '../contract/secrets.ts';

/** Minimum interval between two reads of the counters: each costs a process (`nft`). */
const COUNTERS_MS_MIN = 30_000;

const NOTHING: EgressPolicy = { mode: 'none', allow: [], deny: [] };

/** For a card that is plugged before it has a policy. */
export const NO_TRAFFIC: NetworkSpec = { policy: NOTHING, limits: {} };

const NO_SECRETS: LeaseSecrets = { secrets: [] };

type CardParts = Pick<SandboxParts, 'leaseNetwork' | 'clock'>;

export class NetworkCard {
  readonly #sandboxId: string;
  readonly #parts: CardParts;
  #lease: CardLease | undefined;
  #network: NetworkSpec | null = null;
  /** Bytes of the budget that earlier leases used. */
  #bytesUsed = 0;
  #destinationBytesUsed: BytesByName = {};
  #isReleased = false;
  #counted: { readonly lease: CardLease; readonly atMs: number; readonly bytes: number } | undefined;

  constructor(sandboxId: string, parts: CardParts) {
    this.#sandboxId = sandboxId;
    this.#parts = parts;
  }

  /** The effective network; `null` without a card. */
  get network(): NetworkSpec | null {
    return this.#network;
  }

  /** Settings for the hello; undefined without a card. */
  get settings(): GuestNetwork | undefined {
    return this.#lease?.guest;
  }

  /** Undefined without a card. */
  get gatewayUse(): GatewayUse | undefined {
    return this.#lease?.gatewayUse();
  }

  /** Undefined if the guest needs no certificate authority. */
  get trust(): GuestTrust | undefined {
    return this.#lease?.trust;
  }

  /**
   * For a VM that is about to start; call `confirmHandover` once it runs.
   * @throws SandboxError `network_unavailable`, `secrets_missing`
   */
  async lease(network: NetworkSpec, secrets = NO_SECRETS): Promise<NicSpec> {
    const { leaseNetwork } = this.#parts;
    if (leaseNetwork === undefined) {
      throw new SandboxError('network_unavailable', 'this host has no network for sandboxes');
    }
    const { bytesUsed = 0, destinationBytesUsed = {}, policy, limits } = network;
    this.#bytesUsed = Math.max(this.#bytesUsed, bytesUsed);
    this.#destinationBytesUsed = { ...destinationBytesUsed, ...this.#destinationBytesUsed };
    const lease = await leaseNetwork(this.#sandboxId, { policy, limits, ...this.#used }, secrets);
    if (this.#isReleased) {
      await lease.release();
      throw new SandboxError('gone', 'the sandbox ended while its network was set up');
    }
    this.#lease = lease;
    this.#network = { policy, limits };
    const { tapFd, guest } = lease;
    return { tapFd, mac: guest.mac, lend: (...to) => lease.lend(...to) };
  }

  /**
   * Connects from the host to a port at the guest's address.
   * @throws SandboxError `network_unavailable` without a card; `port_unreachable`
   */
  async connect(port: number, signal?: AbortSignal): Promise<Duplex> {
    if (this.#lease !== undefined) return await this.#lease.connect(port, signal);
    throw new SandboxError('network_unavailable', 'the sandbox has no network card', {
      remedy: 'give it one (neurovisor update), or use its channel, which needs none',
    });
  }

  /** Call once the VM has started with the card. */
  async confirmHandover(): Promise<void> {
    await this.#lease?.confirmHandover();
  }

  /** Plugs a card into a running VM; the caller then sends `settings` to the guest. After an error there is no card. */
  async plug(network: NetworkSpec, vm: Vm, secrets = NO_SECRETS): Promise<void> {
    const nic = await this.lease(network, secrets);
    try {
      if (vm.nicHotplug === undefined) {
        throw new SandboxError('network_unavailable', 'this VMM can not plug network cards', {
          remedy: 'start it with a network (mode "none" lets nothing through), or choose QEMU',
        });
      }
      await vm.nicHotplug.plugNic(nic);
      await this.confirmHandover();
    } catch (error) {
      await this.#unplug(vm).catch((second: unknown) => ignore(second, 'the first error is reported'));
      throw error;
    }
  }

  /**
   * Late binding of a VM that has run no user code: its card, if any, gets the policy and secrets; a missing one is
   * plugged. After an error the VM must not be used.
   */
  async bind(network: NetworkSpec, vm: Vm, secrets: LeaseSecrets): Promise<void> {
    if (this.#lease === undefined) return await this.plug(network, vm, secrets);
    const { policy, limits } = network;
    await this.#lease.setSecrets(secrets.secrets);
    await this.#lease.setPolicy(policy, limits);
    this.#network = { policy, limits };
  }

  /**
   * Changes the policy; plugs a missing card, unplugs an unwanted one. After an error `network` is the effective one.
   */
  async set(network: NetworkSpec | null, vm: Vm, guest: Guest, secrets = NO_SECRETS): Promise<void> {
    if (network === null) {
      await this.#remove(vm, guest);
    } else if (this.#lease === undefined) {
      await this.plug(network, vm, secrets);
      try {
        await guest.update({ network: this.settings });
      } catch (error) {
        await this.#unplug(vm).catch((second: unknown) => ignore(second, 'the first error is reported'));
        throw error;
      }
    } else {
      const { policy, limits } = network;
      await this.#lease.setPolicy(policy, limits);
      this.#network = { policy, limits };
    }
  }

  /** Applies to new connections; without a card, to the next card. */
  async setSecrets(secrets: readonly SandboxSecret[]): Promise<void> {
    await this.#lease?.setSecrets(secrets);
  }

  /** Blocks all traffic first, since the rest needs the guest's cooperation. */
  async #remove(vm: Vm, guest: Guest): Promise<void> {
    if (this.#lease === undefined) return;
    const limits = this.#network?.limits ?? {};
    await this.#lease.setPolicy(NOTHING, limits);
    this.#network = { policy: NOTHING, limits };
    // The card stays, but passes nothing.
    if (vm.nicHotplug === undefined) return;
    await guest.update({ network: null });
    await vm.nicHotplug.unplugNic();
    await this.#releaseLease();
  }

  /** Bytes in both directions; 0 without a card. May be half a minute old. */
  async bytes(): Promise<number> {
    const lease = this.#lease;
    const nowMs = this.#parts.clock.now();
    const known = this.#counted;
    if (lease === undefined) return 0;
    if (known?.lease === lease && nowMs - known.atMs < COUNTERS_MS_MIN) return known.bytes;
    const { bytesIn, bytesOut } = await lease.traffic();
    this.#counted = { lease, atMs: nowMs, bytes: bytesIn + bytesOut };
    return this.#counted.bytes;
  }

  /** The network for the next VM of the sandbox: the effective policy, and the used bytes. */
  async networkToKeep(): Promise<NetworkSpec | null> {
    await this.#countBudget();
    return this.#network && { ...this.#network, ...this.#used };
  }

  get #used(): Pick<NetworkSpec, 'bytesUsed' | 'destinationBytesUsed'> {
    const byName = this.#destinationBytesUsed;
    const isEmpty = Object.keys(byName).length === 0;
    return { bytesUsed: this.#bytesUsed, ...(isEmpty ? {} : { destinationBytesUsed: byName }) };
  }

  /** Call it once the VM has ended. Idempotent. */
  async release(): Promise<void> {
    this.#isReleased = true;
    await this.#releaseLease();
  }

  /** Releases the TAP even if the guest does not release the card. */
  async #unplug(vm: Vm): Promise<void> {
    try {
      await vm.nicHotplug?.unplugNic();
    } finally {
      await this.#releaseLease();
    }
  }

  /** Does nothing without a budget: a read costs a process. */
  async #countBudget(): Promise<void> {
    const lease = this.#lease;
    if (lease === undefined) return;
    const { destinations } = lease.gatewayUse();
    this.#destinationBytesUsed = Object.fromEntries(destinations.map((each) => [each.name, each.bytesUsed]));
    if (this.#network?.limits.bytesMax === undefined) return;
    const traffic = await awaitOr(undefined, 'the previous count stays', () => lease.traffic());
    if (traffic !== undefined) this.#bytesUsed = traffic.bytesUsed;
  }

  async #releaseLease(): Promise<void> {
    if (!this.#isReleased) await this.#countBudget();
    const lease = this.#lease;
    this.#lease = undefined;
    this.#network = null;
    await lease?.release();
  }
}
