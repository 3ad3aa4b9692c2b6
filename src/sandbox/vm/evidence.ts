/** The host's observations of one VM, as evidence for its end. */

import type { Clock } from '../../base/clock.ts';
import { Listeners } from '../../base/listeners.ts';
import { MIB } from '../../base/units.ts';
import type { Guest } from '../../machine/guest/guest.ts';
import type { Vm, VmExit } from '../../machine/vmm/driver.ts';
import { causeOfExit, type SandboxEnd } from '../contract/ending.ts';
import type { DiskEvent, PackageEvent } from '../contract/events.ts';
import type { HostMemoryEvents, MemoryEvent, OomMark, PressureMark, ResizedEvent } from '../contract/memory-events.ts';
import type { HostViolations } from '../contract/parts.ts';
import { MemoryWatch } from '../memory/watch.ts';
import { diskEvent } from './full-disk.ts';

const EXIT_GRACE_MS = 500;
/** Maximum time from the exit of a VMM to our notice of it: several seconds on a busy host. */
const NOTICE_MS_MAX = 30_000;

export interface EvidenceParts {
  readonly clock: Clock;
  /** Omitted if the host's view of the VMM is not watched. */
  hostMemory?(vmmPid: number, sandboxId: string): HostMemoryEvents | null;
  /** Omitted if refused system calls are not recorded. */
  hostViolations?(vmmPid: number): HostViolations | null;
}

export type WatchedEvent = MemoryEvent | DiskEvent | PackageEvent;

export class Evidence {
  readonly #parts: EvidenceParts;
  readonly #memory: MemoryWatch;
  readonly #listeners = new Listeners<WatchedEvent>();
  #host: HostMemoryEvents | null = null;
  #violations: HostViolations | null = null;
  #vm: Vm | undefined;
  #exit: VmExit | undefined;

  constructor(parts: EvidenceParts) {
    this.#parts = parts;
    this.#memory = new MemoryWatch(parts.clock.now());
  }

  /** If the disk is full now, the listener gets that event in a microtask. Returns a function that removes it. */
  listen(listener: (event: WatchedEvent) => void): () => void {
    const stop = this.#listeners.listen(listener);
    const full = this.#vm?.fullDisk?.() ?? null;
    if (full !== null) queueMicrotask(() => listener(diskEvent(full)));
    return stop;
  }

  get lastPressure(): PressureMark | null {
    return this.#memory.lastPressure;
  }

  get lastOom(): OomMark | null {
    return this.#memory.lastOom;
  }

  watchVm(vm: Vm, sandboxId: string): void {
    const { clock, hostMemory, hostViolations } = this.#parts;
    this.#vm = vm;
    this.#host = vm.pid === null ? null : (hostMemory?.(vm.pid, sandboxId) ?? null);
    this.#violations = vm.pid === null ? null : (hostViolations?.(vm.pid) ?? null);
    const stop = this.#host?.listen((event) => this.#emit(this.#memory.fromHost(event, clock.now(), clock.wall())));
    vm.onDiskTrouble?.((trouble) => this.#emit([diskEvent(trouble)]));
    void vm.exited.then((exit) => {
      this.#exit = exit;
      stop?.();
    });
  }

  /** Ends when the guest's connection closes. */
  watchGuest(guest: Guest): void {
    const { clock } = this.#parts;
    guest.events((event) => this.#emit(this.#memory.fromGuest(event, clock.now(), clock.wall())));
  }

  /** Passes on events of the supervisor: a change of the memory size, a fetch of a package. */
  note(event: ResizedEvent | PackageEvent): void {
    this.#emit([event]);
  }

  /** Waits a moment for the VM's exit, which explains more than a broken connection; longer if the VMM has ended. */
  async exitOrGrace(vm: Vm): Promise<void> {
    await this.#exitWithin(vm, EXIT_GRACE_MS);
    if (!vm.isAlive()) await this.#exitWithin(vm, NOTICE_MS_MAX);
  }

  async #exitWithin(vm: Vm, ms: number): Promise<void> {
    const grace = Promise.withResolvers<void>();
    const cancel = this.#parts.clock.after(ms, grace.resolve);
    await Promise.race([vm.exited, grace.promise]);
    cancel();
  }

  causeOf(exit: VmExit): Pick<SandboxEnd, 'cause' | 'detail'> {
    const kills = this.#host?.oomKills() ?? 0;
    const end = causeOfExit(exit, this.#vm?.consoleTail() ?? '', kills);
    const { lastOom } = this.#memory;
    if (end.cause !== 'host-oom' || lastOom?.source !== 'host' || lastOom.victim === null) return end;
    const { name, pid, rssBytes } = lastOom.victim;
    return { ...end, detail: `${end.detail}: ${name} (pid ${pid}) held ${Math.floor(rssBytes / MIB)} MiB` };
  }

  /** Call it once the VM has ended. */
  async end(cause: SandboxEnd['cause'], detail: string): Promise<SandboxEnd> {
    const lastViolation = (await this.#violations?.settle(this.#exit)) ?? null;
    const { exitCode = null, signal = null, log = '' } = this.#exit ?? {};
    const { lastPressure, lastOom } = this.#memory;
    return {
      cause,
      detail,
      atMs: Math.floor(this.#parts.clock.wall()),
      evidence: { exitStatus: exitCode, signal, lastPressure, lastOom, lastViolation },
      console: this.#vm?.consoleTail() ?? '',
      vmmLog: log,
    };
  }

  #emit(events: readonly WatchedEvent[]): void {
    for (const event of events) this.#listeners.emit(event);
  }
}
