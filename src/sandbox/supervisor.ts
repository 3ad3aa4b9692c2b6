/**
 * The one owner of a sandbox's state. Everybody else asks, and is refused with a reason.
 *
 *     start:  workspace ─► disk, (RAM,) bridge port, guest listener ─► VM boots or goes on ─► hello ─► ready
 *     stop:   guest link ─► VM ─► bridge port ─► listener ─► workspace     (reverse, once, always)
 *
 * What it needs from the mechanisms comes in as `SandboxParts`, so all of this runs without a VM in tests.
 */

import { CleanupStack } from '../base/cleanup.ts';
import type { Clock } from '../base/clock.ts';
import { CodedError, describeError } from '../base/errors.ts';
import { ignore } from '../base/ignore.ts';
import type { Log } from '../base/log.ts';
import type { Guest, GuestIdentity, GuestListener } from '../guest/link.ts';
import type { Vm, VmExit, VmmDriver, VmSnapshot } from '../vmm/driver.ts';
import { SandboxError } from './errors.ts';
import {
  isFinal,
  type SandboxEvent,
  type SandboxState,
  type TransitionResult,
  transition,
} from './lifecycle.ts';
import type { ModelPolicy, SandboxSpec } from './spec.ts';

/** The private directory of a sandbox. */
export interface Workspace {
  readonly dir: string;
  readonly channelPath: string;
  readonly overlayPath: string;
  /** Writes down the VMM's pid, so that the next start can end it if this process is killed. */
  recordVmm(pid: number): Promise<void>;
  /** A place for RAM of this size, on a file system in memory; nothing is there yet. */
  reserveMemory(bytes: number): Promise<string>;
  /** Removes the RAM's name; who has it open keeps it. */
  dropMemory(): Promise<void>;
  remove(): Promise<void>;
}

export interface BridgePort {
  close(): Promise<void>;
}

/** What a clone goes on from instead of booting. */
export interface CloneSource {
  readonly snapshot: VmSnapshot;
  copyMemory(targetPath: string): Promise<void>;
  copyDisk(targetPath: string): Promise<void>;
}

export interface SandboxParts {
  readonly driver: VmmDriver;
  readonly kernelPath: string;
  readonly rootImagePath: string;
  makeWorkspace(spec: SandboxSpec): Promise<Workspace>;
  makeOverlay(targetPath: string, sizeBytes: number): Promise<void>;
  allocateCid(): { readonly cid: number; release(): void };
  listenForGuest(channelPath: string, identity: GuestIdentity): Promise<GuestListener>;
  attachBridge(sandboxId: string, channelPath: string, models: ModelPolicy): Promise<BridgePort>;
  /** Absent: the sandbox boots. */
  readonly template?: CloneSource;
  readonly clock: Clock;
  readonly log: Log;
}

/** Why a sandbox ended. */
export interface SandboxEnd {
  readonly cause: /** `stop` was called. */
    | 'stopped'
    /** Its time was up. */
    | 'timeout'
    /** The guest powered off or rebooted. */
    | 'guest-shutdown'
    /** The VMM process died. */
    | 'vmm-crashed'
    /** The agent's link broke while the VM ran. */
    | 'agent-lost'
    /** It never became ready. */
    | 'start-failed';
  readonly detail: string;
  /** The last 64 KiB of the serial console. */
  readonly console: string;
}

/** Durations in milliseconds, in the order in which the phases ran. */
export interface StartTimings {
  readonly origin: 'boot' | 'clone';
  /** Directory, disk, sockets; of a clone also the copy of its RAM. */
  readonly prepareMs: number;
  /** VMM process spawned until guest code runs; of a clone with its state loaded. */
  readonly vmmMs: number;
  /** Guest code runs until PID 1 (guest clock); 0 in a clone and where the guest can't tell. */
  readonly kernelMs: number;
  /** PID 1 (in a clone: guest code runs) until the agent is confirmed. */
  readonly agentMs: number;
  /** `start` called until ready. */
  readonly totalMs: number;
}

const BYTES_PER_MIB = 1024 * 1024;

export class Supervisor {
  readonly spec: SandboxSpec;
  /** Resolves when nothing of the sandbox is left. Never rejects. */
  readonly ended: Promise<SandboxEnd>;
  readonly #parts: SandboxParts;
  readonly #cleanup = new CleanupStack();
  readonly #listeners = new Set<(state: SandboxState, event: SandboxEvent) => void>();
  #state: SandboxState = 'creating';
  #vm: Vm | undefined;
  #guest: Guest | undefined;
  #timings: StartTimings | undefined;
  #booting: Promise<void> | undefined;
  #stopping: Promise<SandboxEnd> | undefined;
  readonly #aborter = new AbortController();
  readonly #resolveEnded: (end: SandboxEnd) => void;

  constructor(spec: SandboxSpec, parts: SandboxParts) {
    this.spec = spec;
    this.#parts = parts;
    const { promise, resolve } = Promise.withResolvers<SandboxEnd>();
    this.ended = promise;
    this.#resolveEnded = resolve;
  }

  get state(): SandboxState {
    return this.#state;
  }

  get timings(): StartTimings | undefined {
    return this.#timings;
  }

  /** The VM while there is one; for consoles and channel statistics. */
  get vm(): Vm | undefined {
    return this.#vm;
  }

  onTransition(listener: (state: SandboxState, event: SandboxEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Boots the VM and shakes hands with its agent. On failure everything is released first.
   * @throws SandboxError `start_failed` or `cancelled`
   */
  async start(signal?: AbortSignal): Promise<void> {
    const stopOnAbort = (): void => this.#aborter.abort(signal?.reason);
    if (signal?.aborted) stopOnAbort();
    signal?.addEventListener('abort', stopOnAbort, { once: true });
    try {
      this.#booting = this.#boot(this.#aborter.signal);
      await this.#booting;
    } catch (error) {
      const cancelled = this.#aborter.signal.aborted;
      const detail = cancelled ? 'cancelled while starting' : describeError(error);
      const end = await this.#end('start-failed', detail);
      if (cancelled) throw new SandboxError('cancelled', 'starting the sandbox was cancelled');
      throw this.#startFailure(error, end);
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
  }

  /** Ends the sandbox and releases all of it. Idempotent. */
  stop(): Promise<SandboxEnd> {
    this.#aborter.abort(new SandboxError('cancelled', 'the sandbox was stopped'));
    return this.#end('stopped', 'stopped by its owner');
  }

  async #boot(signal: AbortSignal): Promise<void> {
    const { clock } = this.#parts;
    const began = clock.now();
    signal.throwIfAborted();
    const { workspace, memoryPath, cid, listener } = await this.#prepare();
    signal.throwIfAborted();
    const prepared = clock.now();
    const vm = await this.#startVm(workspace, memoryPath, cid, signal);
    const { guest, readyAt } = await this.#hello(listener, vm, signal);
    const running = prepared + vm.timings.runningMs;
    const isClone = this.#parts.template !== undefined;
    // What a clone's guest remembers is the boot of its template.
    const kernelMs = isClone ? 0 : (guest.info.kernelToInitMs ?? 0);
    this.#timings = {
      origin: isClone ? 'clone' : 'boot',
      prepareMs: prepared - began,
      vmmMs: vm.timings.runningMs,
      kernelMs,
      agentMs: Math.max(0, readyAt - running - kernelMs),
      totalMs: readyAt - began,
    };
    this.#apply('agent-confirmed');
    this.#watch(vm, guest);
  }

  async #prepare(): Promise<{
    workspace: Workspace;
    memoryPath: string | undefined;
    cid: number;
    listener: GuestListener;
  }> {
    const parts = this.#parts;
    const workspace = await parts.makeWorkspace(this.spec);
    this.#cleanup.push('workspace', () => workspace.remove());
    const lease = parts.allocateCid();
    this.#cleanup.push('context id', () => lease.release());
    const { channelPath } = workspace;
    const listening = parts.listenForGuest(channelPath, this.#identity()).then((listener) => {
      this.#cleanup.push('guest listener', () => listener.close());
      return listener;
    });
    const attaching = parts
      .attachBridge(this.spec.id, channelPath, this.spec.models)
      .then((port) => this.#cleanup.push('bridge port', () => port.close()));
    const copying = this.#makeDisk(workspace);
    const remembering = this.#makeMemory(workspace);
    // All are awaited before any failure is passed on: what succeeded must be on the cleanup stack.
    const results = await Promise.allSettled([listening, attaching, copying, remembering]);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
    const [listener, memoryPath] = await Promise.all([listening, remembering]);
    return { workspace, memoryPath, cid: lease.cid, listener };
  }

  async #makeDisk({ overlayPath }: Workspace): Promise<void> {
    const { template, makeOverlay } = this.#parts;
    if (template !== undefined) await template.copyDisk(overlayPath);
    else await makeOverlay(overlayPath, this.spec.diskMib * BYTES_PER_MIB);
  }

  /** A clone's RAM; a VM that boots gets memory without a name. */
  async #makeMemory(workspace: Workspace): Promise<string | undefined> {
    const { template } = this.#parts;
    if (template === undefined) return undefined;
    const path = await workspace.reserveMemory(this.spec.memoryMib * BYTES_PER_MIB);
    await template.copyMemory(path);
    return path;
  }

  async #startVm(
    workspace: Workspace,
    memoryPath: string | undefined,
    guestCid: number,
    signal: AbortSignal,
  ): Promise<Vm> {
    const parts = this.#parts;
    const { template } = parts;
    this.#apply('resources-made');
    const vm = await parts.driver.start(
      {
        id: this.spec.id,
        dir: workspace.dir,
        cpus: this.spec.cpus,
        memoryMib: this.spec.memoryMib,
        kernelPath: parts.kernelPath,
        rootImagePath: parts.rootImagePath,
        overlayPath: workspace.overlayPath,
        guestCid,
        channelPath: workspace.channelPath,
        channelLimits: this.spec.channelLimits,
        console: this.spec.console,
        ...(memoryPath === undefined ? {} : { memoryPath }),
        ...(template === undefined ? {} : { snapshot: template.snapshot }),
      },
      signal,
    );
    this.#vm = vm;
    this.#cleanup.push('VM', () => vm.kill());
    if (memoryPath !== undefined) await workspace.dropMemory();
    if (vm.pid !== null) await workspace.recordVmm(vm.pid);
    return vm;
  }

  async #hello(
    listener: GuestListener,
    vm: Vm,
    signal: AbortSignal,
  ): Promise<{ guest: Guest; readyAt: number }> {
    const waiting = new AbortController();
    const both = AbortSignal.any([signal, waiting.signal]);
    try {
      const died = vm.exited.then((exit): never => {
        throw new SandboxError(
          'start_failed',
          `the VM ended before its agent said hello: ${exit.cause}`,
          {
            ...(exit.detail === '' ? {} : { cause: exit.detail }),
          },
        );
      });
      const guest = await Promise.race([listener.ready(both), died]);
      this.#guest = guest;
      this.#cleanup.push('guest link', () => guest.close());
      return { guest, readyAt: this.#parts.clock.now() };
    } finally {
      waiting.abort();
    }
  }

  #watch(vm: Vm, guest: Guest): void {
    void vm.exited.then((exit) => this.#end(causeOf(exit), exit.detail));
    void guest.closed.then(async () => {
      // The VM's own end explains more than the broken link, and follows at once if it is the reason.
      const grace = Promise.withResolvers<void>();
      const cancel = this.#parts.clock.after(AGENT_LOST_GRACE_MS, grace.resolve);
      await Promise.race([vm.exited, grace.promise]);
      cancel();
      if (this.#state === 'ready') await this.#end('agent-lost', 'the link to the agent broke');
    });
    if (this.spec.timeoutMs !== null) {
      const limitMs = this.spec.timeoutMs;
      const cancel = this.#parts.clock.after(limitMs, () => {
        void this.#end('timeout', `the sandbox reached its limit of ${limitMs} ms`);
      });
      this.#cleanup.push('timer', cancel);
    }
  }

  #identity(): GuestIdentity {
    const { defaultModel } = this.spec.models;
    return {
      sandboxId: this.spec.id,
      hostname: this.spec.hostname,
      env: {
        ...(defaultModel === null ? {} : { NEUROVISOR_MODEL: defaultModel }),
        ...this.spec.env,
        NEUROVISOR_SANDBOX_ID: this.spec.id,
      },
      // The agent's own defaults, which are parts of what the guest has.
      limits: {},
      warm: this.spec.warm,
    };
  }

  #end(cause: SandboxEnd['cause'], detail: string): Promise<SandboxEnd> {
    this.#stopping ??= this.#release(cause, detail);
    return this.#stopping;
  }

  async #release(cause: SandboxEnd['cause'], detail: string): Promise<SandboxEnd> {
    this.#aborter.abort(new SandboxError('gone', 'the sandbox is ending'));
    const failed = cause === 'start-failed' || cause === 'vmm-crashed' || cause === 'agent-lost';
    this.#apply(failed ? 'died' : 'stop');
    // What a start under way still acquires must be on the cleanup stack before that is run.
    await this.#booting?.catch((error: unknown) =>
      ignore(error, 'the start reports its own failure'),
    );
    try {
      await this.#cleanup.run();
    } catch (error) {
      this.#parts.log.error('could not release all of a sandbox', {
        sandbox: this.spec.id,
        error: describeError(error),
      });
    }
    const end: SandboxEnd = { cause, detail, console: this.#vm?.consoleTail() ?? '' };
    this.#apply(failed ? 'released-after-failure' : 'released');
    this.#resolveEnded(end);
    return end;
  }

  #startFailure(error: unknown, end: SandboxEnd): SandboxError {
    const lastLines = end.console.trimEnd().split('\n').slice(-CONSOLE_LINES_IN_ERROR).join('\n');
    const remedy = error instanceof CodedError ? error.remedy : undefined;
    const console = lastLines === '' ? '' : `\nlast lines of the guest's console:\n${lastLines}`;
    return new SandboxError('start_failed', 'the sandbox could not be started', {
      cause: new Error(`${describeError(error)}${console}`),
      ...(remedy === undefined ? {} : { remedy }),
    });
  }

  #require(event: SandboxEvent): void {
    const result = transition(this.#state, event);
    if (!result.ok) throw this.#refusal(result);
  }

  #apply(event: SandboxEvent): void {
    const result = transition(this.#state, event);
    if (!result.ok) throw this.#refusal(result);
    this.#state = result.state;
    this.#parts.log.debug('sandbox state', { sandbox: this.spec.id, state: result.state, event });
    for (const listener of this.#listeners) {
      try {
        listener(result.state, event);
      } catch (error) {
        ignore(error, 'a state listener threw');
      }
    }
  }

  #refusal(result: Exclude<TransitionResult, { ok: true }>): SandboxError {
    const code = isFinal(result.from) || result.from === 'stopping' ? 'gone' : 'not_ready';
    return new SandboxError(code, `"${result.event}" is not possible while ${result.from}`);
  }
}

const AGENT_LOST_GRACE_MS = 500;
const CONSOLE_LINES_IN_ERROR = 12;

function causeOf(exit: VmExit): SandboxEnd['cause'] {
  return exit.cause === 'guest-shutdown' ? 'guest-shutdown' : 'vmm-crashed';
}
