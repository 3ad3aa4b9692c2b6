/**
 * The network card of one VM, from its lease to its end.
 *
 *     none ──lease──► leased ──(the VM starts with it, or it is plugged)──► plugged ──unplug──► none
 *
 * The supervisor owns it and asks for one change at a time; its end may come at any moment.
 */
import { ignore } from '../base/ignore.ts';
import type { Guest, GuestNetwork } from '../guest/link.ts';
import type { NicSpec, Vm } from '../vmm/driver.ts';
import { SandboxError } from './errors.ts';
import type { SandboxNetwork, SandboxParts } from './parts.ts';
import type { NetworkPolicy } from './spec.ts';

export class NetworkCard {
  readonly #sandboxId: string;
  readonly #parts: Pick<SandboxParts, 'leaseNetwork'>;
  #lease: SandboxNetwork | undefined;
  #isReleased = false;

  constructor(sandboxId: string, parts: Pick<SandboxParts, 'leaseNetwork'>) {
    this.#sandboxId = sandboxId;
    this.#parts = parts;
  }

  /** For the hello; undefined: there is none. */
  get settings(): GuestNetwork | undefined {
    return this.#lease?.guest;
  }

  /**
   * For a VM that is yet to start, which then takes it: see `handedOver`.
   * @throws SandboxError `spec_invalid`, `network_unavailable`
   */
  async lease(policy: NetworkPolicy): Promise<NicSpec> {
    const { leaseNetwork } = this.#parts;
    if (leaseNetwork === undefined) {
      throw new SandboxError('network_unavailable', 'this host has no network for sandboxes');
    }
    const lease = await leaseNetwork(this.#sandboxId, policy);
    if (this.#isReleased) {
      await lease.release();
      throw new SandboxError('gone', 'the sandbox ended while it was given a network');
    }
    this.#lease = lease;
    return { tapFd: lease.tapFd, mac: lease.guest.mac };
  }

  /** The VM has been started with it. */
  async handedOver(): Promise<void> {
    await this.#lease?.handedOver();
  }

  /** Into a VM that runs, whose guest is to be told `settings`. On an error there is none. */
  async plug(policy: NetworkPolicy, vm: Vm): Promise<void> {
    const nic = await this.lease(policy);
    try {
      if (vm.nicHotplug === undefined) {
        throw new SandboxError('network_unavailable', 'this VMM plugs no network cards');
      }
      await vm.nicHotplug.plugNic(nic);
      await this.handedOver();
    } catch (error) {
      await this.#unplug(vm).catch((second: unknown) => ignore(second, 'the first is told'));
      throw error;
    }
  }

  /** Changes what it may connect to; makes a card where there is none, removes it where none is wanted. */
  async set(policy: NetworkPolicy | null, vm: Vm, guest: Guest): Promise<void> {
    if (policy === null) {
      if (this.#lease === undefined) return;
      await guest.update({ network: null });
      await this.#unplug(vm);
    } else if (this.#lease === undefined) {
      await this.plug(policy, vm);
      try {
        await guest.update({ network: this.settings });
      } catch (error) {
        await this.#unplug(vm).catch((second: unknown) => ignore(second, 'the first is told'));
        throw error;
      }
    } else {
      await this.#lease.setPolicy(policy);
    }
  }

  /** The VM is gone, or never was. Idempotent. */
  async release(): Promise<void> {
    this.#isReleased = true;
    const lease = this.#lease;
    this.#lease = undefined;
    await lease?.release();
  }

  async #unplug(vm: Vm): Promise<void> {
    const lease = this.#lease;
    this.#lease = undefined;
    try {
      await vm.nicHotplug?.unplugNic();
    } finally {
      await lease?.release();
    }
  }
}
