/** A running QEMU VM. Its devices: `vsock-slot.ts`, `nic.ts`. */
import { open, writeFile } from 'node:fs/promises';
import type { Readable, Writable } from 'node:stream';
import type {
  Balloon,
  ChangesRoom,
  ChannelLimits,
  ChannelStats,
  DiskLimits,
  DiskTrouble,
  NicHotplug,
  RamChanges,
  SavedState,
  Vm,
  VmExit,
  VmTimings,
  VsockHotplug,
} from '../driver.ts';
import { VmmError } from '../errors.ts';
import { stateDigest } from '../snapshot.ts';
import { type CapturedDifference, makeRoom } from './captured-difference.ts';
import { limitDisks } from './disk-limits.ts';
import type { DiskWatch } from './disk-watch.ts';
import type { NicSlot } from './nic.ts';
import type { PrivateRam } from './private-ram.ts';
import type { QemuProcess } from './process.ts';
import { saveDevices, saveState } from './state.ts';
import type { VsockSlot } from './vsock-slot.ts';

/** RAM that QEMU maps privately, and the needs of its save. */
export interface PrivateMemory {
  readonly ram: PrivateRam;
  /** `configurationOf` the state that the VM was started from. */
  readonly configuration: Buffer;
  /** The file that gets QEMU's own pages; the caller has filled it with the others. */
  readonly memoryFd: number;
}

export class QemuVm implements Vm {
  readonly id: string;
  readonly pid: number | null;
  readonly channelPath: string;
  readonly timings: VmTimings;
  readonly exited: Promise<VmExit>;
  readonly terminal: { readonly input: Writable; readonly output: Readable } | null;
  readonly vsockHotplug: VsockHotplug;
  readonly nicHotplug: NicHotplug;
  readonly balloon?: Balloon;
  readonly #process: QemuProcess;
  readonly #slot: VsockSlot;
  readonly #nic: NicSlot;
  readonly #disk: DiskWatch;
  readonly #release: () => Promise<void>;
  readonly #snapshotMachine: string | null;
  readonly #privateMemory: PrivateMemory | null;
  readonly #limitVmm: (limits: DiskLimits) => void;
  #gone = false;

  /** @param options.release ends the process if necessary, and releases everything that `start` created */
  constructor(options: {
    id: string;
    channelPath: string;
    timings: VmTimings;
    process: QemuProcess;
    slot: VsockSlot;
    nic: NicSlot;
    balloon: Balloon | undefined;
    disk: DiskWatch;
    release: () => Promise<void>;
    /** Written into snapshots; `null` if the RAM is QEMU's own, so no snapshot is possible. */
    snapshotMachine: string | null;
    privateMemory: PrivateMemory | null;
    /** Limits the process, in addition to the guest. */
    limitVmm: (limits: DiskLimits) => void;
  }) {
    this.id = options.id;
    this.pid = options.process.pid;
    this.channelPath = options.channelPath;
    this.timings = options.timings;
    this.terminal = options.process.terminal;
    this.vsockHotplug = options.slot;
    this.nicHotplug = options.nic;
    if (options.balloon !== undefined) this.balloon = options.balloon;
    this.#process = options.process;
    this.#slot = options.slot;
    this.#nic = options.nic;
    this.#disk = options.disk;
    this.#release = options.release;
    this.#snapshotMachine = options.snapshotMachine;
    this.#privateMemory = options.privateMemory;
    this.#limitVmm = options.limitVmm;
    this.exited = this.#process.exited.then(async (exit) => {
      this.#gone = true;
      await this.#release();
      return exit;
    });
  }

  isAlive(): boolean {
    return !this.#gone && this.#process.isAlive();
  }

  get logs(): Vm['logs'] {
    return this.#process.logs;
  }

  consoleTail(): string {
    return this.#process.consoleTail();
  }

  onDiskTrouble(listener: (trouble: DiskTrouble) => void): () => void {
    return this.#disk.listen(listener);
  }

  fullDisk(): DiskTrouble | null {
    return this.#disk.full;
  }

  get savesChanges(): boolean {
    return this.#privateMemory !== null;
  }

  async ownBytes(): Promise<number> {
    this.#requireRunning();
    return (await this.#privateMemory?.ram.ownBytes()) ?? 0;
  }

  makeRoom(bytes: number): Promise<ChangesRoom> {
    return makeRoom(bytes);
  }

  async saveState(statePath: string, changes?: RamChanges): Promise<SavedState> {
    this.#requireRunning();
    const machine = this.#snapshotMachine;
    if (machine === null) throw unsupported("its RAM is QEMU's own");
    if (this.#slot.isPlugged) throw unsupported('its vsock device is plugged');
    if (this.#nic.isPlugged) throw unsupported('its network card is plugged');
    const own = this.#privateMemory;
    const { qmp } = this.#process;
    const state = own === null ? await saveState(qmp) : await saveDevices(qmp, own.configuration);
    const writing = writeFile(statePath, state, { flag: 'wx', mode: 0o600 });
    const [written, captured] = await Promise.allSettled([
      writing,
      own === null ? undefined : saveChanges(own, changes),
    ]);
    if (captured.status === 'rejected') throw captured.reason;
    const { value: rest } = captured;
    if (written.status === 'rejected') {
      await rest?.close();
      throw written.reason;
    }
    const saved = { statePath, stateSha256: stateDigest(state), machine };
    if (changes === undefined || 'ramPath' in changes || rest === undefined) return saved;
    return { ...saved, difference: changes.difference, rest };
  }

  async pause(): Promise<void> {
    this.#requireRunning();
    await this.#process.qmp.execute('stop');
  }

  async resume(): Promise<void> {
    this.#requireRunning();
    await this.#process.qmp.execute('cont');
  }

  async setChannelLimits(limits: ChannelLimits): Promise<void> {
    this.#requireRunning();
    await this.#slot.setLimits(limits);
  }

  async setDiskLimits(limits: DiskLimits): Promise<void> {
    this.#requireRunning();
    await limitDisks(this.#process.qmp, limits);
    this.#limitVmm(limits);
  }

  async channelStats(): Promise<ChannelStats> {
    this.#requireRunning();
    return this.#slot.stats();
  }

  async kill(): Promise<void> {
    await this.#process.kill();
    await this.exited;
  }

  #requireRunning(): void {
    if (this.#gone) throw new VmmError('vm_gone', `the VM ${this.id} is gone`);
  }
}

/** @returns the data to write once the VM runs again */
async function saveChanges(
  { ram, memoryFd }: PrivateMemory,
  changes: RamChanges | undefined,
): Promise<CapturedDifference | undefined> {
  if (changes === undefined) {
    await ram.writeOwnPages(memoryFd);
  } else if ('ramPath' in changes) {
    await using file = await open(changes.ramPath, 'r+');
    await ram.writeOwnPages(file.fd);
  } else {
    const { path, baseDigest } = changes.difference;
    return await ram.captureDifference(path, baseDigest, changes.room);
  }
  return undefined;
}

function unsupported(cause: string): VmmError {
  return new VmmError('vm_unsupported', 'could not take a snapshot of the VM', { cause });
}
