/**
 * The one owner of a VM's state. All others send requests, and are refused with a reason.
 *
 *     start:  workspace ─► disk, RAM, network, bridge port, guest listener ─► VM boots or is restored ─► hello ─► ready
 *     save:   settle ─► unplug ─► stop, devices ─► RAM, disk ─► continue ─► plug ─► hello ─► ready
 *     stop:   guest link ─► VM ─► bridge port ─► listener ─► network ─► RAM ─► workspace     (reverse, once, always)
 *
 * The mechanisms come in as `SandboxParts`, so all of this runs without a VM in tests.
 */

import { CleanupStack } from '../../base/cleanup.ts';
import { describeError } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { Listeners } from '../../base/listeners.ts';
import type { PackagePolicy } from '../../base/request/package-policy.ts';
import type { Span } from '../../base/trace/trace.ts';
import { MIB } from '../../base/units.ts';
import type { PackageFetch } from '../../egress/packages/gateway.ts';
import type { GuestIdentity } from '../../machine/guest/identity.ts';
import type { Guest, GuestListener } from '../../machine/guest/link.ts';
import type { NicSpec, Vm, VmSnapshot } from '../../machine/vmm/driver.ts';
import type { SandboxEnd } from '../contract/ending.ts';
import { isFailure } from '../contract/ending.ts';
import { goneWhileSaving, SandboxError, saveFailure, startFailure } from '../contract/errors.ts';
import type { ResizedEvent } from '../contract/memory-events.ts';
import type {
  MappedMemory,
  PackagePort,
  SandboxParts,
  SaveTarget,
  StartTimings,
  Workspace,
} from '../contract/parts.ts';
import { requireValues, type SandboxSecret } from '../contract/secrets.ts';
import type { ModelPolicy, NetworkSpec, SandboxSpec } from '../contract/spec.ts';
import { fitMemory, mayMapRam, ramMib, resizeMemory } from '../memory/size.ts';
import { Evidence } from './evidence.ts';
import { setGuestClock } from './guest-clock.ts';
import { identityOf, untilHello } from './identity.ts';
import { isFinal, refusalOf, type SandboxEvent, type SandboxState, transition } from './lifecycle.ts';
import { NetworkCard } from './network-card.ts';
import type { MadeMemory, Prepared, Running } from './running.ts';
import { allReady, fillOnce, Saving } from './saving.ts';
import { startTimings, tracedStart, traceStart } from './start-timings.ts';
import { limitVm, namedLimits, type VmLimits } from './vm-limits.ts';
import { vmSpecOf } from './vm-spec.ts';

export interface Transition {
  readonly state: SandboxState;
  readonly event: SandboxEvent;
}

const ONE_OWNER = 'local';

export class Supervisor {
  /** Resolves when everything is released. Never rejects. */
  readonly ended: Promise<SandboxEnd>;
  readonly #parts: SandboxParts;
  readonly #cleanup = new CleanupStack();
  readonly #transitions = new Listeners<Transition>();
  readonly #card: NetworkCard;
  readonly #evidence: Evidence;
  #spec: SandboxSpec;
  #state: SandboxState = 'creating';
  #vm: Vm | undefined;
  #guest: Guest | undefined;
  #running: Running | undefined;
  #writing: Promise<VmSnapshot | null> | undefined;
  #timings: StartTimings | undefined;
  #booting: Promise<void> | undefined;
  #stopping: Promise<SandboxEnd> | undefined;
  readonly #aborter = new AbortController();
  readonly #resolveEnded: (end: SandboxEnd) => void;

  constructor(spec: SandboxSpec, parts: SandboxParts) {
    this.#spec = spec;
    this.#parts = parts;
    this.#card = new NetworkCard(spec.id, parts);
    this.#evidence = new Evidence(parts);
    const { promise, resolve } = Promise.withResolvers<SandboxEnd>();
    this.ended = promise;
    this.#resolveEnded = resolve;
  }

  get spec(): SandboxSpec {
    return this.#spec;
  }

  get state(): SandboxState {
    return this.#state;
  }

  get timings(): StartTimings | undefined {
    return this.#timings;
  }

  /** The current VM, if any; for consoles and channel statistics. */
  get vm(): Vm | undefined {
    return this.#vm;
  }

  /** Whose VMs share pages of RAM with its own; null: it has none, or RAM of its own. */
  get sharers(): string | null {
    return this.#running?.mapped === undefined ? null : (this.#parts.sharers ?? ONE_OWNER);
  }

  /** Pages of the VM's RAM that are in a memory of its own, bytes; RAM that it maps copy-on-write has none there. */
  get ramBytes(): number {
    return this.#running?.memory.usedBytes() ?? 0;
  }

  get card(): Pick<NetworkCard, 'settings' | 'gatewayUse' | 'bytes' | 'networkToKeep' | 'connect'> {
    return this.#card;
  }

  /** The VM is paused because the host's file system is full. */
  get isStalled(): boolean {
    return (this.#vm?.fullDisk?.() ?? null) !== null;
  }

  /** Events of memory and disk. */
  get events(): Pick<Evidence, 'listen' | 'lastPressure' | 'lastOom'> {
    return this.#evidence;
  }

  onTransition(listener: (transition: Transition) => void): () => void {
    return this.#transitions.listen(listener);
  }

  /**
   * Boots or restores the VM and waits for the hello of its agent. On failure releases everything first.
   * @throws SandboxError `start_failed` or `cancelled`
   */
  async start(signal?: AbortSignal): Promise<void> {
    const stopOnAbort = (): void => this.#aborter.abort(signal?.reason);
    if (signal?.aborted) stopOnAbort();
    signal?.addEventListener('abort', stopOnAbort, { once: true });
    try {
      const { tracer } = this.#parts;
      const boot = (span: Span): Promise<void> => this.#boot(span, this.#aborter.signal);
      this.#booting = tracedStart(tracer, this.spec.id, boot);
      await this.#booting;
    } catch (error) {
      const cancelled = this.#aborter.signal.aborted;
      const detail = cancelled ? 'cancelled while starting' : describeError(error);
      const end = await this.#end('start-failed', detail);
      if (cancelled) throw new SandboxError('cancelled', 'starting the sandbox was canceled');
      throw startFailure(error, end.console);
    } finally {
      signal?.removeEventListener('abort', stopOnAbort);
    }
  }

  /** The agent's link. @throws SandboxError `not_ready` or `gone` */
  guest(): Guest {
    if (this.#state === 'ready' && this.#guest !== undefined) return this.#guest;
    if (this.#state === 'stopping' || isFinal(this.#state)) {
      throw new SandboxError('gone', `sandbox ${this.spec.id} has ended`);
    }
    throw new SandboxError('not_ready', `sandbox ${this.spec.id} is ${this.#state}`);
  }

  async pause(): Promise<void> {
    this.#require('pause');
    await this.#vm?.pause();
    this.#apply('pause');
  }

  async resume(): Promise<void> {
    this.#require('resume');
    await this.#vm?.resume();
    this.#apply('resume');
    await setGuestClock(this.#guest, this.spec.id, this.#parts, this.#aborter.signal);
  }

  /**
   * Late binding: a member of a pool becomes the requested sandbox.
   * @param spec keeps the id, size and warm list of the member
   * @throws SandboxError, GuestError; then the member must not be used
   */
  async bind(spec: SandboxSpec, signal?: AbortSignal): Promise<void> {
    const guest = this.guest();
    const { id, cpus, memoryMib, diskMib, warm, hostname } = this.#spec;
    this.#spec = { ...spec, id, cpus, memoryMib, diskMib, warm, hostname };
    if (spec.network !== null && this.#vm !== undefined) await this.#card.bind(spec.network, this.#vm, spec);
    const { env, network, authority } = this.#identity();
    this.#running?.port.setModels(spec.models);
    this.#running?.packages?.setPolicy(spec.packages);
    this.#running?.listener.setIdentity(this.#identity());
    await Promise.all([
      // Also if nothing changes: a guest that hangs does not answer, and must not be handed out.
      guest.update({ env, network, authority }, signal),
      limitVm(this.#vm, namedLimits(spec)),
    ]);
  }

  /** Changes what its requests may ask models, for those that arrive from now on; the next VM has the same. */
  setModels(models: ModelPolicy): void {
    this.#spec = { ...this.#spec, models };
    this.#running?.port.setModels(models);
  }

  /** Changes the limits of a running VM; the next VM has them too. @throws SandboxError `not_ready` or `gone`; VmmError */
  async setLimits(limits: Partial<VmLimits>): Promise<void> {
    this.guest();
    await limitVm(this.#vm, limits);
    this.#spec = { ...this.#spec, ...limits };
  }

  /**
   * Grows or shrinks the guest's memory; the next VM has the same size.
   * @throws SandboxError `spec_invalid`, `memory_unavailable`, `not_ready`, `gone`; VmmError, GuestError
   */
  async resizeMemory(memoryMib: number, by: ResizedEvent['by']): Promise<void> {
    const { clock } = this.#parts;
    const parts = { clock, vm: this.#vm, guest: this.guest(), signal: this.#aborter.signal };
    const { memoryMib: fromMib } = this.#spec;
    // The owner may have grown it meanwhile.
    if (by === 'pressure' && memoryMib <= fromMib) return;
    const began = clock.now();
    await resizeMemory(parts, this.#spec, memoryMib, (changed) => {
      this.#spec = { ...this.#spec, memoryMib: changed };
      this.#running?.listener.setIdentity(this.#identity());
    });
    const durationMs = Math.round(clock.now() - began);
    this.#evidence.note({ type: 'resized', by, fromMib, toMib: memoryMib, durationMs });
  }

  /**
   * Changes the network policy; null: removes the network card. The next VM has the same.
   * @throws SandboxError `spec_invalid`, `network_unavailable`, `not_ready`, `gone`; GuestError
   */
  async setNetwork(network: NetworkSpec | null): Promise<void> {
    const guest = this.guest();
    try {
      if (this.#vm !== undefined) await this.#card.set(network, this.#vm, guest, this.#spec);
    } finally {
      this.#spec = { ...this.#spec, network: this.#card.network };
      this.#running?.listener.setIdentity(this.#identity());
    }
    if (this.#spec.authority !== undefined) await this.#tellSecrets(guest);
  }

  /**
   * Replaces all secrets; the next VM has the same.
   * @param network for a sandbox that has none
   * @throws SandboxError `secrets_missing`, `network_unavailable`, `not_ready`, `gone`; GuestError
   */
  async setSecrets(secrets: readonly SandboxSecret[], network: NetworkSpec | null) {
    const guest = this.guest();
    requireValues(this.spec.id, secrets);
    await this.#card.setSecrets(secrets);
    this.#spec = { ...this.#spec, secrets };
    if (this.#card.network === null && network !== null) return await this.setNetwork(network);
    this.#running?.listener.setIdentity(this.#identity());
    await this.#tellSecrets(guest);
  }

  /**
   * Changes the package policy, for requests that arrive from now on; the next VM has the same.
   * @throws SandboxError `not_ready`, `gone`; GuestError: the policy is then as before, or none
   */
  async setPackages(packages: PackagePolicy | null): Promise<void> {
    const guest = this.guest();
    const before = this.#spec.packages;
    const set = (policy: PackagePolicy | null): void => {
      this.#running?.packages?.setPolicy(policy);
      this.#spec = { ...this.#spec, packages: policy };
      this.#running?.listener.setIdentity(this.#identity());
    };
    set(packages);
    try {
      // Programs with a network card are pointed to the gateway only for what it serves.
      await guest.update({ env: this.#identity().env });
    } catch (error) {
      if (packages !== null) set(before);
      throw error;
    }
  }

  async #tellSecrets(guest: Guest): Promise<void> {
    const { env, authority = null } = this.#identity();
    await guest.update({ env, authority });
  }

  /** Number of model requests under way. */
  get modelRequests(): number {
    return this.#running?.port.inFlight() ?? 0;
  }

  /** Cheap and synchronous: the VM runs, as far as the host knows. */
  isAlive(): boolean {
    return this.#state === 'ready' && this.#vm?.isAlive() === true && !this.isStalled;
  }

  /**
   * Saves the state of the VM. All connections to its guest end; its programs live on.
   * @param then `end`: the VM ends when `commit` has resolved; `continue`: it runs again once RAM and disk are copied, and
   *   resumes while `commit` runs
   * @param commit makes the copy count; if it fails, the VM continues. Null: only the disks were saved. It is whole once
   *   `whole` has resolved, of `end` before
   * @throws SandboxError `not_ready`, `snapshot_failed`, `disk_full` (the VM continues), `gone` (the VM ended)
   */
  async save(
    target: SaveTarget,
    then: 'end' | 'continue',
    commit: (snapshot: VmSnapshot | null, whole: Promise<void>) => Promise<void>,
  ): Promise<void> {
    this.#require('save');
    const running = this.#running;
    if (running === undefined) throw new SandboxError('not_ready', 'there is no VM to save');
    const saving = new Saving(running, this.guest());
    this.#apply('save');
    const atOnce = (saved: VmSnapshot | null) => commit(saved, Promise.resolve());
    this.#writing = saving.write(target, then === 'end' ? atOnce : null);
    let failure: unknown;
    try {
      const snapshot = await this.#writing;
      if (then === 'end') {
        await this.#end('saved', 'saved, to continue later');
        return;
      }
      // The rest is compared and written while the guest comes back.
      const resuming = this.#resumeAfterSave(saving, running);
      const whole = saving.finish();
      for (const each of await Promise.allSettled([resuming, whole, commit(snapshot, whole)])) {
        if (each.status === 'rejected') throw each.reason;
      }
      return;
    } catch (error) {
      failure = error;
    } finally {
      // A copy that counts is whole: its files were read again for their digests.
      await saving.close().catch((error: unknown) => ignore(error, 'a file that was written'));
    }
    if (this.#stopping !== undefined) throw goneWhileSaving(failure);
    if (this.#state === 'saving') await this.#resumeAfterSave(saving, running);
    throw saveFailure(failure);
  }

  /** Ends the VM and releases everything. Idempotent. */
  stop(cause: 'stopped' | 'timeout' = 'stopped'): Promise<SandboxEnd> {
    this.#aborter.abort(new SandboxError('cancelled', 'the sandbox was stopped'));
    return this.#end(cause, cause === 'timeout' ? 'it reached its time limit' : 'stopped by its owner');
  }

  async #resumeAfterSave(saving: Saving, running: Running): Promise<void> {
    try {
      await saving.resumeAfterSave();
      if (saving.isLinked) {
        // Its exit is seen a moment later.
        if (!running.vm.isAlive()) throw new SandboxError('gone', 'its VMM has ended');
      } else {
        const guest = await this.#hello(running.listener, running.vm, this.#aborter.signal);
        this.#watchGuest(running.vm, guest);
      }
      this.#apply('continue');
    } catch (error) {
      await this.#evidence.exitOrGrace(running.vm);
      if (this.#stopping === undefined) {
        await this.#end('agent-lost', `it could not continue after a save: ${describeError(error)}`);
      }
      throw goneWhileSaving(error);
    }
  }

  async #boot(span: Span, signal: AbortSignal): Promise<void> {
    const { clock } = this.#parts;
    const began = clock.now();
    signal.throwIfAborted();
    const prepared = await this.#prepare();
    signal.throwIfAborted();
    const preparedAt = clock.now();
    const vm = await this.#startVm(prepared, signal);
    this.#running = { ...prepared, vm };
    this.#cleanup.push('guest link', () => this.#guest?.close());
    const guest = await this.#hello(prepared.listener, vm, signal);
    // A VM that boots runs no program of its user before.
    const { diskLimits } = namedLimits(this.spec);
    if (this.#parts.template === undefined) await limitVm(vm, { diskLimits });
    await this.#fitMemory(vm, guest, signal);
    this.#timings = startTimings({
      beganMs: began,
      preparedMs: preparedAt,
      vmm: vm.timings,
      readyMs: clock.now(),
      guest: this.#parts.template === undefined ? guest.info : null,
    });
    traceStart(span, this.#timings, began);
    this.#apply('agent-confirmed');
    this.#watch(vm, guest);
  }

  async #prepare(): Promise<Prepared> {
    const parts = this.#parts;
    // First, since it takes longest.
    const made = await this.#makeMemory();
    const workspace = await parts.makeWorkspace(this.spec);
    this.#cleanup.push('workspace', () => workspace.remove());
    // A VM that dies during a pause loses nothing: RAM and disk may still be copied.
    this.#cleanup.push('copies', () => Promise.allSettled([this.#writing]));
    const lease = parts.allocateCid();
    this.#cleanup.push('context id', () => lease.release());
    const { channelPath } = workspace;
    this.#cleanup.push('network', () => this.#card.release());
    const leasing = this.#leaseNetwork();
    const listening = leasing.then(async () => {
      const listener = await parts.listenForGuest(channelPath, this.#identity());
      this.#cleanup.push('guest listener', () => listener.close());
      return listener;
    });
    const attaching = parts
      .attachBridge(this.spec.id, channelPath, this.spec.models, this.spec.modelAccount)
      .then((port) => {
        this.#cleanup.push('bridge port', () => port.close());
        return port;
      });
    const serving = this.#attachPackages(channelPath);
    const copying = this.#makeDisk(workspace);
    // All settle before a failure is thrown: what succeeded must be on the cleanup stack.
    const results = await Promise.allSettled([listening, attaching, serving, copying]);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
    const [nic, listener, port] = await Promise.all([leasing, listening, attaching]);
    const { cid } = lease;
    const hasEnvironment = this.spec.environment !== undefined;
    const held = { ...made, workspace, hasEnvironment, cid };
    return { ...held, listener, port, packages: await serving, nic };
  }

  async #attachPackages(channelPath: string): Promise<PackagePort | undefined> {
    const { id, packages } = this.spec;
    const note = (fetch: PackageFetch): void => this.#evidence.note({ type: 'package', ...fetch });
    const port = await this.#parts.attachPackages?.(id, channelPath, packages, note);
    if (port !== undefined) this.#cleanup.push('package port', () => port.close());
    return port;
  }

  async #leaseNetwork(): Promise<NicSpec | undefined> {
    const { network } = this.spec;
    return network === null ? undefined : await this.#card.lease(network, this.spec);
  }

  #identity(): GuestIdentity {
    const { trust, settings } = this.#card;
    // The next VM and forks have the same authority.
    if (trust !== undefined) this.#spec = { ...this.#spec, authority: trust.authority };
    return identityOf(this.spec, settings, trust);
  }

  async #makeDisk({ overlayPath, environmentPath }: Workspace): Promise<void> {
    const { template, disk = template, makeOverlay } = this.#parts;
    if (this.spec.environment !== undefined) {
      const from = disk ?? this.#parts;
      if (from.linkEnvironment === undefined) throw new Error('the disk of its image is unknown');
      await from.linkEnvironment(environmentPath);
    }
    if (disk !== undefined) await disk.copyDisk(overlayPath);
    else await makeOverlay(overlayPath, this.spec.diskMib * MIB);
  }

  /** The RAM of a clone is mapped, or filled while its VMM starts. */
  async #makeMemory(): Promise<MadeMemory> {
    const { template, makeMemory, driver, sharers = ONE_OWNER } = this.#parts;
    const memory = makeMemory(ramMib(this.spec) * MIB);
    let mapped: MappedMemory | undefined;
    let memoryReady: Promise<void> | undefined;
    this.#cleanup.push('RAM', async () => {
      // The copy opens the memory by its descriptor number, which must not be reused before it ends.
      await Promise.allSettled([memoryReady]);
      memory.close();
      await mapped?.close();
    });
    const mayMap = mayMapRam(driver.capabilities, this.spec);
    if (template?.mapMemory !== undefined && sharers !== null && mayMap) {
      mapped = await template.mapMemory(sharers);
    }
    memoryReady = mapped === undefined ? template?.copyMemory(memory.path) : allReady(mapped.ready, template?.ready);
    memoryReady?.catch((error: unknown) => ignore(error, 'reported by the start of the VM'));
    const fillMemory = mapped && fillOnce(mapped, memory);
    return { memory, mapped, memoryReady, fillMemory };
  }

  async #startVm(prepared: Prepared, signal: AbortSignal): Promise<Vm> {
    const parts = this.#parts;
    this.#apply('resources-made');
    const vm = await parts.driver.start(vmSpecOf(this.spec, prepared, parts), signal);
    this.#vm = vm;
    this.#evidence.watchVm(vm, this.spec.id);
    this.#cleanup.push('VM', () => vm.kill());
    await this.#card.confirmHandover();
    if (vm.pid !== null) await prepared.workspace.recordVmm(vm.pid);
    return vm;
  }

  async #hello(listener: GuestListener, vm: Vm, signal: AbortSignal): Promise<Guest> {
    // A boot fails at once; a saved VM waits until the host has room.
    const retryFull = this.#state === 'booting' ? null : this.#parts.clock;
    const guest = await untilHello(listener, vm, signal, retryFull);
    this.#guest = guest;
    this.#evidence.watchGuest(guest);
    return guest;
  }

  /** A guest that does not cooperate keeps more than its size: at most its maximum, which the VMM's limits count. */
  async #fitMemory(vm: Vm, guest: Guest, signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#parts;
    if (await fitMemory({ clock, vm, guest, signal }, this.#spec)) return;
    log.warn('a guest did not give memory back in time', { sandbox: this.spec.id });
  }

  #watch(vm: Vm, guest: Guest): void {
    void vm.exited.then((exit) => {
      const { cause, detail } = this.#evidence.causeOf(exit);
      return this.#end(cause, detail);
    });
    this.#watchGuest(vm, guest);
    if (this.spec.timeoutMs !== null) {
      const limitMs = this.spec.timeoutMs;
      const detail = `the sandbox reached its limit of ${limitMs} ms`;
      const cancel = this.#parts.clock.after(limitMs, () => void this.#end('timeout', detail));
      this.#cleanup.push('timer', cancel);
    }
  }

  #watchGuest(vm: Vm, guest: Guest): void {
    const end = (): void => {
      if (this.#state !== 'ready' || this.#guest !== guest) return;
      void this.#end('agent-lost', 'the link to the agent broke');
    };
    void guest.closed.then(async () => {
      await this.#evidence.exitOrGrace(vm);
      end();
      if (this.#guest !== guest) return;
      // In a paused VM a broken link counts only if the VM runs again without a new one.
      const stop = this.onTransition(() => {
        stop();
        end();
      });
    });
  }

  #end(cause: SandboxEnd['cause'], detail: string): Promise<SandboxEnd> {
    this.#stopping ??= this.#release(cause, detail);
    return this.#stopping;
  }

  async #release(cause: SandboxEnd['cause'], detail: string): Promise<SandboxEnd> {
    this.#aborter.abort(new SandboxError('gone', 'the sandbox is ending'));
    const failed = isFailure(cause);
    this.#apply(failed ? 'died' : 'stop');
    // A start under way may still push onto the cleanup stack.
    await this.#booting?.catch((error: unknown) => ignore(error, 'the start reports its own failure'));
    try {
      await this.#cleanup.run();
    } catch (error) {
      const fields = { sandbox: this.spec.id, error: describeError(error) };
      this.#parts.log.error('could not release all of a sandbox', fields);
    }
    const end = await this.#evidence.end(cause, detail);
    this.#apply(failed ? 'released-after-failure' : 'released');
    this.#resolveEnded(end);
    return end;
  }

  #require(event: SandboxEvent): void {
    const result = transition(this.#state, event);
    if (!result.ok) throw refusalOf(result);
  }

  #apply(event: SandboxEvent): void {
    const result = transition(this.#state, event);
    if (!result.ok) throw refusalOf(result);
    this.#state = result.state;
    this.#parts.log.debug('sandbox state', { sandbox: this.spec.id, state: result.state, event });
    this.#transitions.emit({ state: result.state, event });
  }
}
