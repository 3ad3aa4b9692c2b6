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
import type { Span } from '../../base/trace/trace.ts';
import type { Guest, GuestListener } from '../../machine/guest/link.ts';
import type { Vm, VmSnapshot } from '../../machine/vmm/driver.ts';
import { isFailure, type SandboxEnd, STOP_DETAILS, type StopCause } from '../contract/ending.ts';
import { goneWhileSaving, SandboxError, saveFailure, startFailure } from '../contract/errors.ts';
import type { SandboxParts, SaveTarget, StartTimings } from '../contract/parts.ts';
import type { SandboxSpec } from '../contract/spec.ts';
import { fitMemory } from '../memory/size.ts';
import { Evidence } from './evidence.ts';
import { setGuestClock } from './guest-clock.ts';
import { untilHello } from './identity.ts';
import { isFinal, refusalOf, type SandboxEvent, type SandboxState, transition } from './lifecycle.ts';
import { NetworkCard } from './network-card.ts';
import type { Prepared, Running } from './running.ts';
import { Saving } from './saving.ts';
import { startTimings, tracedStart, traceStart } from './start-timings.ts';
import { limitVm, namedLimits } from './vm-limits.ts';
import { ONE_OWNER, VmResources } from './vm-resources.ts';
import { VmSettings } from './vm-settings.ts';
import { vmSpecOf } from './vm-spec.ts';
import { releaseVolumes, requireMounted } from './volumes.ts';

export interface Transition {
  readonly state: SandboxState;
  readonly event: SandboxEvent;
}

export class Supervisor {
  /** Resolves when everything is released. Never rejects. */
  readonly ended: Promise<SandboxEnd>;
  readonly #parts: SandboxParts;
  readonly #cleanup = new CleanupStack();
  readonly #transitions = new Listeners<Transition>();
  readonly #card: NetworkCard;
  readonly #evidence: Evidence;
  /** Changes of the running VM. */
  readonly settings: VmSettings;
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
    this.#parts = parts;
    this.#card = new NetworkCard(spec.id, parts);
    this.#evidence = new Evidence(parts);
    const target = {
      clock: parts.clock,
      signal: this.#aborter.signal,
      vm: () => this.#vm,
      running: () => this.#running,
      guest: () => this.guest(),
    };
    this.settings = new VmSettings(spec, target, this.#card, this.#evidence);
    const { promise, resolve } = Promise.withResolvers<SandboxEnd>();
    this.ended = promise;
    this.#resolveEnded = resolve;
  }

  get spec(): SandboxSpec {
    return this.settings.spec;
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

  /** See `SandboxParts`. */
  get madeFrom(): SandboxParts['madeFrom'] {
    return this.#parts.madeFrom;
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
   * @throws SandboxError `start_failed`, `disk_full` or `cancelled`
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
  stop(cause: StopCause = 'stopped', detail = STOP_DETAILS[cause]): Promise<SandboxEnd> {
    this.#aborter.abort(new SandboxError('cancelled', 'the sandbox was stopped'));
    return this.#end(cause, detail);
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
    const resources = new VmResources({
      sandbox: this.#parts,
      settings: this.settings,
      card: this.#card,
      evidence: this.#evidence,
      cleanup: this.#cleanup,
    });
    const prepared = await resources.make(() => this.#writing);
    signal.throwIfAborted();
    const preparedAt = clock.now();
    const vm = await this.#startVm(prepared, signal);
    this.#running = { ...prepared, vm };
    this.#cleanup.push('guest link', () => this.#guest?.close());
    const guest = await this.#hello(prepared.listener, vm, signal);
    requireMounted(this.spec, guest);
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
    if (await fitMemory({ clock, vm, guest, signal }, this.spec)) return;
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
    const isPaused = this.#state === 'paused';
    const isClean = !failed && cause !== 'saved' && (isPaused || this.#state === 'ready');
    this.#apply(failed ? 'died' : 'stop');
    // A start under way may still push onto the cleanup stack.
    await this.#booting?.catch((error: unknown) => ignore(error, 'the start reports its own failure'));
    if (isClean) await releaseVolumes(this.spec, { vm: this.#vm, guest: this.#guest, isPaused }, this.#parts);
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
