/**
 * A fake VM and guest: RAM is a small file, which is what the guest remembers. Both enforce their order: a guest whose
 * VM is paused gets no request, and no VM is saved with its device plugged.
 */

import { createHash } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { PassThrough } from 'node:stream';
import { ignore } from '../../src/base/ignore.ts';
import type { GuestNetwork } from '../../src/base/request/guest-network.ts';
import { orAborted } from '../../src/base/time-limit.ts';
import { GuestError } from '../../src/machine/guest/errors.ts';
import type {
  GuestChange,
  GuestClosed,
  GuestEvent,
  GuestInfo,
  GuestStats,
  Process,
  RunOptions,
  SettleOptions,
} from '../../src/machine/guest/guest.ts';
import type {
  Balloon,
  DiskLimits,
  DiskTrouble,
  NicSpec,
  RamChanges,
  RamDifference,
  SavedState,
  UnwrittenChanges,
  Vm,
  VmDisk,
  VmExit,
  VmSnapshot,
  VmSpec,
  VmVolume,
} from '../../src/machine/vmm/driver.ts';
import { VmmError } from '../../src/machine/vmm/errors.ts';
import { ByteTail } from '../../src/machine/vmm/tail.ts';
import type { Phase, Script } from './fake-script.ts';

export const FAKE_MACHINE = 'fake machine';

/** Resources in use by kind, which shows leaks. */
export interface Holdings {
  add(kind: string, what: object): void;
  delete(kind: string, what: object): void;
}

export interface FakeVmParts {
  readonly script: Script;
  readonly holdings: Holdings;
  readonly memoryPath: string;
}

export class FakeVm implements Vm {
  readonly id: string;
  /** Belongs to no process: above the kernel's maximum (proc(5), pid_max). */
  readonly pid = 2 ** 22 + 1;
  readonly channelPath: string;
  readonly timings = { spawnedMs: 1, runningMs: 2 };
  readonly terminal = null;
  readonly vsockHotplug = this;
  readonly nicHotplug = this;
  readonly exited: Promise<VmExit>;
  readonly memoryPath: string;
  readonly #parts: FakeVmParts;
  readonly #exit = Promise.withResolvers<VmExit>();
  readonly #gone = Promise.withResolvers<never>();
  #isAlive = true;
  #runs = true;
  #isPlugged = true;
  #guest: FakeGuest | undefined;
  /** Its network card: the MAC, and whether the guest has it. */
  nic: { readonly mac: string; readonly isPlugged: boolean } | null;
  diskLimits: DiskLimits;
  readonly disks: readonly VmDisk[];
  readonly volumes: readonly VmVolume[];
  readonly bootArgs: readonly string[];

  readonly balloon?: Balloon;
  readonly ramMib: number;
  /** Its guest's memory, MiB. */
  memoryMib: number;
  /** False: its guest ignores all requests of its balloon. */
  isHelpful = true;
  /** What its guest reports in its hello. */
  problems: readonly string[] = [];
  /** Whether its guest has been told to freeze its volumes. */
  hasFrozenVolumes = false;
  /** Number of limits that its guest has received. */
  limited = 0;
  /** Memory that its programs have not taken, MiB. */
  availableMib = 0;

  constructor(spec: VmSpec, parts: FakeVmParts) {
    this.ramMib = spec.memoryMib;
    this.memoryMib = spec.memoryMib - (spec.balloonMib ?? 0);
    if (spec.balloonMib !== undefined) {
      this.balloon = {
        setMemory: async (memoryMib) => {
          await this.step('balloon');
          if (this.isHelpful) this.memoryMib = memoryMib;
        },
        memoryMib: async () => this.memoryMib,
      };
    }
    this.nic = spec.nic === undefined ? null : { mac: spec.nic.mac, isPlugged: true };
    this.diskLimits = spec.diskLimits ?? {};
    this.disks = spec.disks ?? [];
    this.volumes = spec.volumes ?? [];
    this.bootArgs = spec.bootArgs ?? [];
    this.id = spec.id;
    this.channelPath = spec.channelPath;
    this.memoryPath = parts.memoryPath;
    this.#parts = parts;
    this.exited = this.#exit.promise;
    this.#gone.promise.catch((error: unknown) => ignore(error, 'every later call fails with it'));
    parts.holdings.add('VMs', this);
  }

  /** RAM that it maps: its guest's changes stay in the VM until it is saved. */
  #mapped: { readonly base: string; text: string; saved: string } | undefined;
  /** Set by `mapFrom`. */
  savesChanges = false;

  /** @param savesChanges into any file, or as a difference */
  async mapFrom(
    { memoryPath, difference }: Pick<VmSnapshot, 'memoryPath' | 'difference'>,
    savesChanges: boolean,
  ): Promise<void> {
    if (memoryPath === undefined) return;
    const base = await readFile(memoryPath, 'utf8');
    const text = difference === undefined ? base : await readFakeDifference(difference);
    this.#mapped = { base, text, saved: base };
    this.savesChanges = savesChanges;
  }

  /** The part of its mapped RAM that its guest has changed. */
  ownPart = 0.1;

  async ownBytes(): Promise<number> {
    await this.step('own-bytes');
    return (this.#mapped?.base.length ?? 0) * this.ownPart;
  }

  async writeMemory(text: string): Promise<void> {
    if (this.#mapped === undefined) await writeFile(this.memoryPath, text);
    else this.#mapped.text = text;
  }

  async readMemory(): Promise<string> {
    return this.#mapped?.text ?? (await readFile(this.memoryPath, 'utf8'));
  }

  /** Writes only changes, like a diff snapshot. */
  async #writeChanges(changes: RamChanges | undefined): Promise<UnwrittenChanges | undefined> {
    if (this.#mapped === undefined) return undefined;
    const { base, text, saved } = this.#mapped;
    if (changes !== undefined) {
      const isWhole = 'ramPath' in changes;
      const path = isWhole ? changes.ramPath : changes.difference.path;
      if (isWhole && (await readFile(path, 'utf8')) !== base) throw new Error('what for changes?');
      await writeFile(path, 'a part');
      await this.step('save-changes');
      if (isWhole) {
        await writeFile(path, text);
        return undefined;
      }
      const { script } = this.#parts;
      const write = async (): Promise<void> => {
        await script.step('write-rest', this);
        await writeFile(path, fakeDifference(changes.difference, text), { flag: 'r+' });
      };
      return { write, close: () => Promise.resolve() };
    }
    if ((await readFile(this.memoryPath, 'utf8')) !== saved) throw new Error('what for changes?');
    if (text !== saved) await writeFile(this.memoryPath, text);
    this.#mapped.saved = text;
    return undefined;
  }

  isAlive(): boolean {
    return this.#isAlive;
  }

  readonly logs = { console: new ByteTail(64 * 1024), vmm: new ByteTail(1024) };

  get console(): string {
    return this.logs.console.text();
  }

  /** Output that its guest writes in addition. */
  set console(text: string) {
    this.logs.console.push(Buffer.from(text));
  }

  consoleTail(): string {
    return this.logs.console.text();
  }

  get runs(): boolean {
    return this.#runs;
  }

  /** Every later request fails at once; its exit is seen a moment later, like a process's. */
  die(cause: VmExit['cause'] = 'vmm-crashed', more: Partial<VmExit> = {}): void {
    if (!this.#isAlive) return;
    this.#isAlive = false;
    this.#runs = false;
    this.#gone.reject(new VmmError('vm_gone', `the VM ${this.id} is gone`));
    this.#parts.holdings.delete('VMs', this);
    this.#guest?.lose();
    const exit = { cause, exitCode: null, signal: null, detail: cause, ...more };
    setImmediate(() => this.#exit.resolve(exit));
  }

  /** The agent's connection breaks, and the VM continues. */
  loseAgent(): void {
    this.#guest?.lose();
  }

  /** Its agent dials and says hello. */
  async hello(signal?: AbortSignal): Promise<FakeGuest> {
    await this.step('hello', signal);
    if (!this.#isPlugged) throw new Error('a hello without a device');
    this.#guest = new FakeGuest(this, this.#parts.holdings);
    return this.#guest;
  }

  readonly #diskListeners = new Set<(trouble: DiskTrouble) => void>();
  #fullDisk: DiskTrouble | null = null;
  /** The host has no room for its guest's writes. */
  isHostFull = false;

  /** Its guest writes where the host has no room. */
  stall(): void {
    this.#runs = false;
    this.#fullDisk = { kind: 'full', path: '/run/disk.ext4', freeBytes: 0 };
    for (const listener of this.#diskListeners) listener(this.#fullDisk);
  }

  /** A disk of the host fails, which the guest sees. */
  failDisk(): void {
    const trouble: DiskTrouble = { kind: 'failed', path: '/run/disk.ext4', freeBytes: null };
    for (const listener of this.#diskListeners) listener(trouble);
  }

  onDiskTrouble(listener: (trouble: DiskTrouble) => void): () => void {
    this.#diskListeners.add(listener);
    return () => this.#diskListeners.delete(listener);
  }

  fullDisk(): DiskTrouble | null {
    return this.#fullDisk;
  }

  async pause(): Promise<void> {
    await this.step('pause');
    this.#runs = false;
  }

  async resume(): Promise<void> {
    await this.step('resume');
    this.#runs = true;
    this.#fullDisk = null;
    if (this.isHostFull) setImmediate(() => this.stall());
  }

  /** A VM that is gone says so in the step that follows. */
  #allow(isRight: boolean, what: string): void {
    if (!isRight && this.#isAlive) throw new Error(`not now: ${what}`);
  }

  async plugVsock(): Promise<void> {
    this.#allow(!this.#isPlugged && this.#runs, 'plug');
    await this.step('plug');
    this.#isPlugged = true;
  }

  async unplugVsock(): Promise<void> {
    this.#allow(this.#isPlugged && this.#runs, 'unplug');
    await this.step('unplug');
    this.#isPlugged = false;
    this.#guest?.lose();
  }

  async plugNic({ mac }: NicSpec): Promise<void> {
    this.#allow(this.nic === null && this.#runs, 'plug a network card');
    await this.step('plug-nic');
    this.nic = { mac, isPlugged: true };
  }

  async unplugNic(): Promise<void> {
    if (this.nic === null) return;
    await this.step('unplug-nic');
    this.nic = null;
  }

  async withdrawNic(): Promise<void> {
    if (this.nic === null) return;
    this.#allow(this.#runs, 'withdraw a network card');
    await this.step('withdraw-nic');
    this.nic = { ...this.nic, isPlugged: false };
  }

  async returnNic(): Promise<void> {
    if (this.nic === null) return;
    await this.step('return-nic');
    this.nic = { ...this.nic, isPlugged: true };
  }

  async saveState(statePath: string, changes?: RamChanges): Promise<SavedState> {
    if (this.#isPlugged || this.nic?.isPlugged === true) throw new Error('not now: save');
    this.#runs = false;
    await this.step('save-state');
    await writeFile(statePath, this.id);
    const rest = await this.#writeChanges(changes);
    const saved = { statePath, stateSha256: sha256(this.id), machine: FAKE_MACHINE };
    if (changes === undefined || 'ramPath' in changes || rest === undefined) return saved;
    return { ...saved, difference: changes.difference, rest };
  }

  async setChannelLimits(): Promise<void> {
    await this.step('update');
  }

  async setDiskLimits(limits: DiskLimits): Promise<void> {
    await this.step('update');
    this.diskLimits = limits;
  }

  async channelStats(): ReturnType<Vm['channelStats']> {
    await this.step('update');
    return {
      bytesGuestToHost: this.traffic,
      bytesHostToGuest: 0,
      connectionsOpened: 1,
      connectionsOpen: 1,
      connectionsRefused: 0,
      throttledMsGuestToHost: 0,
      throttledMsHostToGuest: 0,
      protocolErrors: 0,
    };
  }

  /** Bytes that have passed its channel. */
  traffic = 0;

  async kill(): Promise<void> {
    await this.#parts.script.step('kill', this);
    this.die('killed');
    await this.exited;
  }

  /** Rejects if the VM dies meanwhile, or has died. */
  async step(phase: Phase, signal?: AbortSignal): Promise<void> {
    const reached = this.#parts.script.step(phase, this);
    reached.catch((error: unknown) => ignore(error, 'the VM has died of it, or the caller has it'));
    const both = Promise.race([this.#gone.promise, reached]);
    await (signal === undefined ? both : orAborted(both, signal));
    if (!this.#isAlive) await this.#gone.promise;
  }
}

/** The part of a guest that the control plane uses. */
export class FakeGuest {
  readonly closed: Promise<GuestClosed>;
  readonly info: GuestInfo;
  readonly #vm: FakeVm;
  readonly #holdings: Holdings;
  readonly #closing = Promise.withResolvers<GuestClosed>();
  #isOpen = true;

  constructor(vm: FakeVm, holdings: Holdings) {
    this.#vm = vm;
    this.#holdings = holdings;
    this.closed = this.#closing.promise;
    this.info = { kernelToInitMs: 1, problems: vm.problems } as unknown as GuestInfo;
    holdings.add('guests', this);
  }

  /** Sets the content of its program's memory. */
  async remember(text: string): Promise<void> {
    this.#requireRunning();
    await this.#ask('update');
    await this.#vm.writeMemory(text);
  }

  async recall(): Promise<string> {
    this.#requireRunning();
    await this.#ask('update');
    return await this.#vm.readMemory();
  }

  /** The last `update`. */
  network: GuestNetwork | null | undefined;
  authority: string | null | undefined;

  async update({ network, authority, limits }: GuestChange, signal?: AbortSignal): Promise<void> {
    await this.#ask('update', signal);
    if (limits !== undefined) this.#vm.limited += 1;
    if (authority !== undefined) this.authority = authority;
    if (network !== undefined) this.network = network;
  }

  expectUpdate(): void {}

  async stats(): Promise<Pick<GuestStats, 'memoryAvailableBytes'>> {
    await this.#ask('update');
    return { memoryAvailableBytes: this.#vm.availableMib * 2 ** 20 };
  }

  async settle({ freezeVolumes = false }: SettleOptions = {}, signal?: AbortSignal): Promise<void> {
    await this.#ask('settle', signal);
    if (freezeVolumes) this.#vm.hasFrozenVolumes = true;
  }

  /** Options of the programs that it was asked to run. */
  readonly started: RunOptions[] = [];

  async python(spec: RunOptions, signal?: AbortSignal): Promise<Process> {
    await this.#ask('python', signal);
    this.started.push(spec);
    const stdin = new PassThrough().resume();
    const stdout = new PassThrough().end();
    const stderr = new PassThrough().end();
    return { stdin, stdout, stderr, exit: Promise.resolve({ exitCode: 0 }) } as unknown as Process;
  }

  readonly #listeners = new Set<(event: GuestEvent) => void>();

  events(listener: (event: GuestEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Emits an event as its agent does. */
  emit(event: GuestEvent): void {
    for (const listener of this.#listeners) listener(event);
  }

  suspend(): void {
    this.isSuspended = true;
  }

  isSuspended = false;

  close(): void {
    this.#end('closed');
  }

  lose(): void {
    this.#end('lost');
  }

  #end(reason: GuestClosed['reason']): void {
    this.#isOpen = false;
    this.#holdings.delete('guests', this);
    this.#closing.resolve({ reason, detail: '' });
  }

  /** A client may use its guest while another pauses it; the control plane may not. */
  #requireRunning(): void {
    if (!this.#vm.runs) throw new GuestError('connection_lost', 'its VM is paused');
  }

  async #ask(phase: Phase, signal?: AbortSignal): Promise<void> {
    if (!this.#isOpen) throw new GuestError('connection_lost', 'the guest is gone');
    if (!this.#vm.runs) throw new Error(`asked for ${phase} while its VM is paused`);
    await this.#vm.step(phase, signal);
  }
}

export function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

function fakeDifference({ baseDigest }: RamDifference, text: string): string {
  return JSON.stringify({ baseDigest, text });
}

/** @throws VmmError if it is based on other RAM */
export async function readFakeDifference({ path, baseDigest }: RamDifference): Promise<string> {
  const found = JSON.parse(await readFile(path, 'utf8')) as { baseDigest: string; text: string };
  if (found.baseDigest === baseDigest) return found.text;
  throw new VmmError('snapshot_refused', 'a difference of other RAM');
}

/** @throws VmmError if the state is not the saved one */
export async function requireState(snapshot: VmSpec['snapshot']): Promise<void> {
  if (snapshot === undefined) return;
  if (sha256(await readFile(snapshot.statePath, 'utf8')) === snapshot.stateSha256) return;
  throw new VmmError('snapshot_refused', 'the state is another');
}
