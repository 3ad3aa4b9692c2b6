/**
 * Writes a running VM down, and lets it go on from wherever that has come to.
 *
 *     linked ──settle──► linked ──unplug──► unplugged ──stop, devices──► stopped ──RAM, disk──► written
 *        └─ nothing to undo                             └───────── resume, plug, hello ───────┘
 *
 * Unplugged are the vsock device and the network card; the VMM keeps the card's TAP, so that its lease lives on.
 */
import type { Guest } from '../../guest/link.ts';
import type { Vm, VmSnapshot } from '../../vmm/driver.ts';
import { SandboxError } from '../errors.ts';
import type { GuestMemory, SaveTarget, Workspace } from '../parts.ts';

/** What is saved. */
export interface SavedVm {
  readonly vm: Vm;
  readonly memory: GuestMemory;
  readonly workspace: Workspace;
  readonly cid: number;
}

export class Saving {
  readonly #saved: SavedVm;
  readonly #guest: Guest;
  #phase: 'linked' | 'unplugging' | 'stopped' = 'linked';

  constructor(saved: SavedVm, guest: Guest) {
    this.#saved = saved;
    this.#guest = guest;
  }

  /** The guest has not lost its link, so it says no hello. */
  get isLinked(): boolean {
    return this.#phase === 'linked';
  }

  /** @param commit makes what was written count, while the VM still could go on */
  async writeDown(
    target: SaveTarget,
    commit: ((snapshot: VmSnapshot) => Promise<void>) | null,
  ): Promise<VmSnapshot> {
    const { vm, memory, workspace } = this.#saved;
    const { vsockHotplug } = vm;
    if (vsockHotplug === undefined || vm.saveState === undefined) {
      throw new SandboxError('snapshot_failed', 'this VMM saves no VMs');
    }
    await this.#guest.settle({ dropCaches: true });
    this.#phase = 'unplugging';
    this.#guest.suspend();
    await vm.nicHotplug?.withdrawNic();
    await vsockHotplug.unplugVsock();
    this.#phase = 'stopped';
    const snapshot = await vm.saveState(target.statePath);
    // Both are awaited before a failure is passed on: neither file may change, or go, under the other copy.
    const copies = [target.keepMemory(memory.path), target.keepDisk(workspace.overlayPath)];
    for (const copy of await Promise.allSettled(copies)) {
      if (copy.status === 'rejected') throw copy.reason;
    }
    await commit?.(snapshot);
    return snapshot;
  }

  /** Afterwards the guest says hello, unless it is still linked. @throws VmmError */
  async resumeAfterSave(): Promise<void> {
    const { vm, cid } = this.#saved;
    // The guest did not give its device up in time: its agent dials again over the same one.
    if (this.#phase === 'unplugging') this.#guest.close();
    if (this.#phase === 'stopped') {
      await vm.resume();
      await vm.vsockHotplug?.plugVsock(cid);
    }
    await vm.nicHotplug?.returnNic();
  }
}
