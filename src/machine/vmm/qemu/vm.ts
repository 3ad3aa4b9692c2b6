/** A running QEMU VM. Its devices: `vsock-slot.ts`, `nic.ts`. */
import { open, writeFile } from 'node:fs/promises';
import type {
  ChangesRoom,
  ChannelLimits,
  ChannelStats,
  DiskLimits,
  DiskTrouble,
  NicHotplug,
  RamChanges,
  SavedState,
  Vm,
  VsockHotplug,
} from '../driver.ts';
import { cannotSave, ProcessVm, type ProcessVmOptions } from '../process-vm.ts';
import { stateDigest } from '../snapshot.ts';
import { type CapturedDifference, makeRoom } from './captured-difference.ts';
import { limitDisks } from './disk-limits.ts';
import type { DiskWatch } from './disk-watch.ts';
import type { NicSlot } from './nic.ts';
import type { PrivateRam } from './private-ram.ts';
import type { QemuParts } from './process.ts';
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

interface QemuVmOptions extends ProcessVmOptions<QemuParts> {
  readonly slot: VsockSlot;
  readonly nic: NicSlot;
  readonly disk: DiskWatch;
  /** Written into snapshots; `null` if the RAM is QEMU's own, so no snapshot is possible. */
  readonly snapshotMachine: string | null;
  readonly privateMemory: PrivateMemory | null;
  /** Limits the process, in addition to the guest. */
  readonly limitVmm: (limits: DiskLimits) => void;
}

export class QemuVm extends ProcessVm<QemuParts> implements Vm {
  readonly vsockHotplug: VsockHotplug;
  readonly nicHotplug: NicHotplug;
  readonly #options: QemuVmOptions;

  constructor(options: QemuVmOptions) {
    super(options, (exit) => exit);
    this.vsockHotplug = options.slot;
    this.nicHotplug = options.nic;
    this.#options = options;
  }

  onDiskTrouble(listener: (trouble: DiskTrouble) => void): () => void {
    return this.#options.disk.listen(listener);
  }

  fullDisk(): DiskTrouble | null {
    return this.#options.disk.full;
  }

  get savesChanges(): boolean {
    return this.#options.privateMemory !== null;
  }

  async ownBytes(): Promise<number> {
    this.requireRunning();
    return (await this.#options.privateMemory?.ram.ownBytes()) ?? 0;
  }

  makeRoom(bytes: number): Promise<ChangesRoom> {
    return makeRoom(bytes);
  }

  async saveState(statePath: string, changes?: RamChanges): Promise<SavedState> {
    this.requireRunning();
    const machine = this.#options.snapshotMachine;
    if (machine === null) throw cannotSave("its RAM is QEMU's own");
    if (this.#options.slot.isPlugged) throw cannotSave('its vsock device is plugged');
    if (this.#options.nic.isPlugged) throw cannotSave('its network card is plugged');
    const own = this.#options.privateMemory;
    const { qmp } = this.#options.process;
    const state = own === null ? await saveState(qmp) : await saveDevices(qmp, own.configuration);
    const writing = writeFile(statePath, state, { flag: 'w', mode: 0o600 });
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
    this.requireRunning();
    await this.#options.process.qmp.execute('stop');
  }

  async resume(): Promise<void> {
    this.requireRunning();
    await this.#options.process.qmp.cont();
  }

  async setChannelLimits(limits: ChannelLimits): Promise<void> {
    this.requireRunning();
    await this.#options.slot.setLimits(limits);
  }

  async setDiskLimits(limits: DiskLimits): Promise<void> {
    this.requireRunning();
    await limitDisks(this.#options.process.qmp, limits);
    this.#options.limitVmm(limits);
  }

  async channelStats(): Promise<ChannelStats> {
    this.requireRunning();
    return this.#options.slot.stats();
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
