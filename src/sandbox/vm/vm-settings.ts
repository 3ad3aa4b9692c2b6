/** The spec of a supervisor's VM, and its changes while the VM runs; the next VM has the same. */
import type { Clock } from '../../base/clock.ts';
import type { PackagePolicy } from '../../base/request/package-policy.ts';
import type { GuestIdentity } from '../../machine/guest/identity.ts';
import type { Guest } from '../../machine/guest/link.ts';
import type { Vm } from '../../machine/vmm/driver.ts';
import type { ResizedEvent } from '../contract/memory-events.ts';
import type { ModelPolicy } from '../contract/model-policy.ts';
import type { NetworkSpec } from '../contract/network-spec.ts';
import { requireValues, type SandboxSecret } from '../contract/secrets.ts';
import type { SandboxSpec } from '../contract/spec.ts';
import { resizeMemory } from '../memory/size.ts';
import type { Evidence } from './evidence.ts';
import { identityOf } from './identity.ts';
import type { NetworkCard } from './network-card.ts';
import type { Running } from './running.ts';
import { limitVm, namedLimits, type VmLimits } from './vm-limits.ts';

export interface SettingsTarget {
  readonly clock: Clock;
  /** Aborts when the VM ends. */
  readonly signal: AbortSignal;
  vm(): Vm | undefined;
  running(): Running | undefined;
  /** @throws SandboxError `not_ready`, `gone` */
  guest(): Guest;
}

export class VmSettings {
  #spec: SandboxSpec;
  readonly #target: SettingsTarget;
  readonly #card: NetworkCard;
  readonly #evidence: Evidence;

  constructor(spec: SandboxSpec, target: SettingsTarget, card: NetworkCard, evidence: Evidence) {
    this.#spec = spec;
    this.#target = target;
    this.#card = card;
    this.#evidence = evidence;
  }

  get spec(): SandboxSpec {
    return this.#spec;
  }

  identity(): GuestIdentity {
    const { trust, settings } = this.#card;
    // The next VM and forks have the same authority.
    if (trust !== undefined) this.#spec = { ...this.#spec, authority: trust.authority };
    return identityOf(this.#spec, settings, trust);
  }

  /**
   * Late binding: a member of a pool becomes the requested sandbox.
   * @param spec keeps the id, size and warm list of the member
   * @throws SandboxError, GuestError; then the member must not be used
   */
  async bind(spec: SandboxSpec, signal?: AbortSignal): Promise<void> {
    const guest = this.#target.guest();
    const { id, cpus, memoryMib, diskMib, warm, hostname } = this.#spec;
    this.#spec = { ...spec, id, cpus, memoryMib, diskMib, warm, hostname };
    const vm = this.#target.vm();
    if (spec.network !== null && vm !== undefined) await this.#card.bind(spec.network, vm, spec);
    const { env, network, authority } = this.identity();
    this.#target.running()?.port.setModels(spec.models);
    this.#target.running()?.packages?.setPolicy(spec.packages);
    this.#target.running()?.listener.setIdentity(this.identity());
    await Promise.all([
      // Also if nothing changes: a guest that hangs does not answer, and must not be handed out.
      guest.update({ env, network, authority }, signal),
      limitVm(vm, namedLimits(spec)),
    ]);
  }

  /** Changes what its requests may ask models, for those that arrive from now on; the next VM has the same. */
  setModels(models: ModelPolicy): void {
    this.#spec = { ...this.#spec, models };
    this.#target.running()?.port.setModels(models);
  }

  /** Changes the limits of a running VM; the next VM has them too. @throws SandboxError `not_ready` or `gone`; VmmError */
  async setLimits(limits: Partial<VmLimits>): Promise<void> {
    this.#target.guest();
    await limitVm(this.#target.vm(), limits);
    this.#spec = { ...this.#spec, ...limits };
  }

  /**
   * Grows or shrinks the guest's memory; the next VM has the same size.
   * @throws SandboxError `spec_invalid`, `memory_unavailable`, `not_ready`, `gone`; VmmError, GuestError
   */
  async resizeMemory(memoryMib: number, by: ResizedEvent['by']): Promise<void> {
    const { clock } = this.#target;
    const parts = { clock, vm: this.#target.vm(), guest: this.#target.guest(), signal: this.#target.signal };
    const { memoryMib: fromMib } = this.#spec;
    // The owner may have grown it meanwhile.
    if (by === 'pressure' && memoryMib <= fromMib) return;
    const began = clock.now();
    await resizeMemory(parts, this.#spec, memoryMib, (changed) => {
      this.#spec = { ...this.#spec, memoryMib: changed };
      this.#target.running()?.listener.setIdentity(this.identity());
    });
    const durationMs = Math.round(clock.now() - began);
    this.#evidence.note({ type: 'resized', by, fromMib, toMib: memoryMib, durationMs });
  }

  /**
   * Changes the network policy; null: removes the network card. The next VM has the same.
   * @throws SandboxError `spec_invalid`, `network_unavailable`, `not_ready`, `gone`; GuestError
   */
  async setNetwork(network: NetworkSpec | null): Promise<void> {
    const guest = this.#target.guest();
    const vm = this.#target.vm();
    try {
      if (vm !== undefined) await this.#card.set(network, vm, guest, this.#spec);
    } finally {
      this.#spec = { ...this.#spec, network: this.#card.network };
      this.#target.running()?.listener.setIdentity(this.identity());
    }
    if (this.#spec.authority !== undefined) await this.#tellSecrets(guest);
  }

  /**
   * Replaces all secrets; the next VM has the same.
   * @param network for a sandbox that has none
   * @throws SandboxError `secrets_missing`, `network_unavailable`, `not_ready`, `gone`; GuestError
   */
  async setSecrets(secrets: readonly SandboxSecret[], network: NetworkSpec | null) {
    const guest = this.#target.guest();
    requireValues(this.#spec.id, secrets);
    await this.#card.setSecrets(secrets);
    this.#spec = { ...this.#spec, secrets };
    if (this.#card.network === null && network !== null) return await this.setNetwork(network);
    this.#target.running()?.listener.setIdentity(this.identity());
    await this.#tellSecrets(guest);
  }

  /**
   * Changes the package policy, for requests that arrive from now on; the next VM has the same.
   * @throws SandboxError `not_ready`, `gone`; GuestError: the policy is then as before, or none
   */
  async setPackages(packages: PackagePolicy | null): Promise<void> {
    const guest = this.#target.guest();
    const before = this.#spec.packages;
    const set = (policy: PackagePolicy | null): void => {
      this.#target.running()?.packages?.setPolicy(policy);
      this.#spec = { ...this.#spec, packages: policy };
      this.#target.running()?.listener.setIdentity(this.identity());
    };
    set(packages);
    try {
      // Programs with a network card are pointed to the gateway only for what it serves.
      await guest.update({ env: this.identity().env });
    } catch (error) {
      if (packages !== null) set(before);
      throw error;
    }
  }

  async #tellSecrets(guest: Guest): Promise<void> {
    const { env, authority = null } = this.identity();
    await guest.update({ env, authority });
  }
}
