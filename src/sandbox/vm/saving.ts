/**
 * Saves a running VM, and lets it continue from whatever point the save has reached.
 *
 *     linked ──settle──► linked ──unplug──► unplugged ──stop, devices──► stopped ──RAM, disk──► written
 *        └─ nothing to undo                             └───────── resume, plug, hello ───────┘
 *
 * For RAM that the VM maps, only the VM's changes are written, once it has stopped: into a file of their own, or, if that
 * would be large, into a copy of all RAM, made while the guest runs.
 * Without memory neither devices nor RAM are written; the rest is the same.
 *
 * The vsock device and the network card are unplugged; the VMM keeps the card's TAP, so its lease stays valid.
 */
import { ignore } from '../../base/ignore.ts';
import type { Guest } from '../../machine/guest/link.ts';
import type { RamChanges, UnwrittenChanges, Vm, VmSnapshot } from '../../machine/vmm/driver.ts';
import { SandboxError } from '../contract/errors.ts';
import type {
  GuestMemory,
  InferencePort,
  MappedMemory,
  MemoryTarget,
  SaveTarget,
  Workspace,
} from '../contract/parts.ts';

/**
 * A VM that has changed more than this fraction of its mapped RAM is saved with all of its RAM: otherwise the base
 * would be kept for the small rest, and each start would have to copy the changes.
 */
const CHANGED_PART_MAX = 1 / 2;

export interface SavedVm {
  readonly vm: Vm;
  readonly memory: Pick<GuestMemory, 'path'>;
  readonly mapped?: Pick<MappedMemory, 'path' | 'base'> | undefined;
  readonly workspace: Workspace;
  readonly port: Pick<InferencePort, 'setSuspended'>;
  readonly cid: number;
  readonly hasEnvironment: boolean;
  /** See `Prepared`. */
  readonly fillMemory?: (() => Promise<void>) | undefined;
}

export class Saving {
  readonly #saved: SavedVm;
  readonly #guest: Guest;
  #phase: 'linked' | 'unplugging' | 'stopped' = 'linked';
  #rest: UnwrittenChanges | undefined;

  constructor(saved: SavedVm, guest: Guest) {
    this.#saved = saved;
    this.#guest = guest;
  }

  /** The guest still has its connection, so no hello follows. */
  get isLinked(): boolean {
    return this.#phase === 'linked';
  }

  /**
   * @param commit makes the copy count while the VM can still continue
   * @returns `null` if only the disks were saved
   */
  async write(
    target: SaveTarget,
    commit: ((snapshot: VmSnapshot | null) => Promise<void>) | null,
  ): Promise<VmSnapshot | null> {
    const { vm, memory, mapped, workspace, port, hasEnvironment, fillMemory } = this.#saved;
    const { vsockHotplug } = vm;
    const { memory: toMemory } = target;
    if (vsockHotplug === undefined || vm.saveState === undefined) {
      throw new SandboxError('snapshot_failed', 'this VMM can not save VMs');
    }
    const isKeptFirst = mapped !== undefined && vm.savesChanges === true;
    let kept: KeptRam = {};
    if (toMemory !== null) {
      if (isKeptFirst) kept = await keepShared(vm, mapped, toMemory);
      else await fillMemory?.();
    }
    // Once the guest has settled, the answers are in its programs' sockets and are saved with the memory.
    port.setSuspended(true);
    // Freeze also with memory: a sandbox may boot from the disk of any save. Only without memory must it boot.
    const isDiskOnly = toMemory === null;
    const settled = { dropCaches: !isDiskOnly, freeze: true, mustFreeze: isDiskOnly };
    const [changes] = await Promise.all([kept.changes?.(), this.#guest.settle(settled)]);
    this.#phase = 'unplugging';
    this.#guest.suspend();
    await vm.nicHotplug?.withdrawNic();
    await vsockHotplug.unplugVsock();
    this.#phase = 'stopped';
    // A paused VM can have its disk copied while its state is saved.
    if (toMemory === null || isKeptFirst) await vm.pause();
    const saving = toMemory === null ? null : this.#saveState(toMemory.statePath, changes);
    if (!isKeptFirst) await saving;
    // All settle before a failure is thrown: no file may change or vanish under another copy.
    const copies = [
      saving,
      ...(toMemory === null || isKeptFirst ? [] : [toMemory.keepMemory(memory.path)]),
      target.keepDisk(workspace.overlayPath),
      ...(hasEnvironment ? [target.keepEnvironment(workspace.environmentPath)] : []),
    ];
    for (const copy of await Promise.allSettled(copies)) {
      if (copy.status === 'rejected') throw copy.reason;
    }
    const snapshot = await saving;
    if (commit !== null) {
      await this.finish();
      await commit(snapshot);
    }
    return snapshot;
  }

  async #saveState(path: string, changes: RamChanges | undefined): Promise<VmSnapshot | null> {
    const saved = await this.#saved.vm.saveState?.(path, changes);
    if (saved === undefined) return null;
    const { rest, ...snapshot } = saved;
    this.#rest = rest;
    return snapshot;
  }

  /** Writes the parts that don't need the VM paused. Until then the copy is incomplete. */
  async finish(): Promise<void> {
    await this.#rest?.write();
  }

  /** Call it in the end, whatever the outcome of the save. */
  async close(): Promise<void> {
    const rest = this.#rest;
    this.#rest = undefined;
    await rest?.close();
  }

  /** A hello of the guest follows, unless it is still connected. @throws VmmError */
  async resumeAfterSave(): Promise<void> {
    const { vm, cid, port } = this.#saved;
    port.setSuspended(false);
    // The guest did not release its device in time: its agent dials again over the same device.
    if (this.#phase === 'unplugging') this.#guest.close();
    if (this.#phase === 'stopped') {
      await vm.resume();
      await vm.vsockHotplug?.plugVsock(cid);
    }
    await vm.nicHotplug?.returnNic();
  }
}

interface KeptRam {
  /**
   * File for the VMM to write the changes since the copy. Called while the guest settles, when this process is idle.
   * Does not throw.
   */
  readonly changes?: () => Promise<RamChanges>;
}

async function keepShared(
  vm: Vm,
  { path, base }: Pick<MappedMemory, 'path' | 'base'>,
  target: MemoryTarget,
): Promise<KeptRam> {
  if (base !== undefined && target.keepBase !== undefined && vm.ownBytes !== undefined) {
    const own = await vm.ownBytes();
    if (own <= base.dataBytes * CHANGED_PART_MAX) {
      const difference = await target.keepBase(base, path);
      return {
        changes: async () => {
          const room = await vm.makeRoom?.(own).catch((error: unknown) => {
            // Throwing here would abandon a guest that settles meanwhile.
            ignore(error, 'the save makes it');
            return undefined;
          });
          return { difference, ...(room && { room }) };
        },
      };
    }
  }
  await target.keepMemory(path, true);
  return { changes: async () => ({ ramPath: target.ramPath }) };
}

/** Copies the RAM that a clone maps into `memory`, at the first call that succeeds. */
export function fillOnce(
  mapped: Pick<MappedMemory, 'copyInto'>,
  memory: Pick<GuestMemory, 'path'>,
): () => Promise<void> {
  let isFilled = false;
  return async () => {
    if (!isFilled) await mapped.copyInto(memory.path);
    isFilled = true;
  };
}

/** Undefined if there is nothing to wait for. */
export function allReady(...waits: (Promise<void> | undefined)[]): Promise<void> | undefined {
  const pending = waits.filter((one) => one !== undefined);
  return pending.length === 0 ? undefined : Promise.all(pending).then(() => undefined);
}
