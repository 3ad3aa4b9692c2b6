/**
 * Pause, resume and snapshots of one VM.
 *
 *     running ──pause──► paused ──create──► paused, safe to resume for its vsock ──resume──► running
 *
 * Two kinds: a whole snapshot (`Vm.saveWhole`) writes RAM to a file that clones map copy-on-write. `Vm.saveState` writes
 * it to the memory of the VM's owner, who copies it for each clone.
 */
import { randomUUID } from 'node:crypto';
import { appendFile, open, rm } from 'node:fs/promises';
import { ignore } from '../../../../base/ignore.ts';
import { MIB } from '../../../../base/units.ts';
import type { VmSnapshot, WholeSnapshotFiles } from '../../driver.ts';
import { VmmError } from '../../errors.ts';
import { readStateFile, stateDigest } from '../../snapshot.ts';
import { type ApiClient, FirecrackerApiError } from '../api-client.ts';
import { FILES, FOLDER, PAUSE_CALL, RESUME_CALL, snapshotCall } from '../config.ts';
import type { Place } from '../place.ts';
import type { Quirks } from '../versions.ts';
import { cardMark } from './card.ts';

interface SnapshotsOptions {
  readonly api: ApiClient;
  readonly place: Place;
  readonly quirks: Quirks;
  readonly machine: string;
  readonly memoryMib: number;
  readonly tracksDirtyPages: boolean;
  /** The owner's memory for RAM; undefined if there is none. */
  readonly memoryFd: number | undefined;
  /** The VM, and so each snapshot, has a network card. */
  readonly hasNic: boolean;
  /** Another process owned the VM before. */
  readonly isAdopted: boolean;
}

export class Snapshots {
  readonly #options: SnapshotsOptions;
  /** A resume is safe for the guest's vsock: no pause yet, or a snapshot since then. */
  #mayResume: boolean;
  /** The pages changed since the last snapshot into the owner's memory are unknown, so a diff would miss some. */
  #ownerNeedsAll: boolean;

  constructor(options: SnapshotsOptions) {
    this.#options = options;
    this.#mayResume = !(options.isAdopted && options.quirks.pauseTakesSnapshot);
    this.#ownerNeedsAll = options.isAdopted;
  }

  async pause(): Promise<void> {
    const { api, quirks } = this.#options;
    await api.call(PAUSE_CALL);
    this.#mayResume = !quirks.pauseTakesSnapshot;
  }

  async resume(): Promise<void> {
    if (!this.#mayResume) await this.#takeThrowaway();
    await this.#options.api.call(RESUME_CALL);
    this.#mayResume = true;
  }

  /** See `Vm.saveWhole`. After a failure the RAM file of a diff is unusable. */
  async saveWhole(files: WholeSnapshotFiles, kind: 'full' | 'diff'): Promise<VmSnapshot> {
    if (kind === 'diff' && !this.#options.tracksDirtyPages) {
      throw unsupported('it was started without dirty page tracking');
    }
    const { statePath, memoryPath } = files;
    const made = kind === 'full' ? [statePath, memoryPath] : [statePath];
    const snapshot = await this.#write(made, statePath, async () => {
      await this.pause();
      this.#ownerNeedsAll = true;
      await this.#create(kind, files);
      await this.#checkMemory(memoryPath);
    });
    return { ...snapshot, memoryPath };
  }

  /** See `Vm.saveState`: writes RAM, or only its known changes, into the owner's memory. */
  async saveState(statePath: string): Promise<VmSnapshot> {
    const { memoryFd, place, tracksDirtyPages } = this.#options;
    if (memoryFd === undefined) throw unsupported("its RAM is Firecracker's own");
    const kind = tracksDirtyPages && !this.#ownerNeedsAll ? 'diff' : 'full';
    return this.#write([statePath], statePath, async () => {
      await this.pause();
      this.#ownerNeedsAll = true;
      await place.provide(FILES.state, statePath, 'write');
      try {
        await place.lendMemory(memoryFd);
        await this.#call(kind);
        await place.returnMemory(memoryFd);
      } finally {
        await place.withdraw(FILES.state);
      }
      this.#ownerNeedsAll = false;
    });
  }

  /** @param made files to create first and to remove after a failure */
  async #write(made: readonly string[], statePath: string, body: () => Promise<void>): Promise<VmSnapshot> {
    const there: string[] = [];
    try {
      for (const path of made) {
        await makePrivate(path);
        there.push(path);
      }
      await body();
      await appendFile(statePath, cardMark(this.#options.hasNic));
      const stateSha256 = stateDigest(await readState(statePath));
      return { statePath, stateSha256, machine: this.#options.machine };
    } catch (error) {
      for (const path of there) await rm(path, { force: true });
      if (error instanceof VmmError) throw error;
      throw new VmmError('vmm_command_failed', 'could not write a snapshot', { cause: error });
    }
  }

  /** Writes a snapshot of a paused VM into existing files. */
  async #create(kind: 'full' | 'diff', files: WholeSnapshotFiles): Promise<void> {
    const { place } = this.#options;
    try {
      await place.provide(FILES.state, files.statePath, 'write');
      await place.provide(FILES.memory, files.memoryPath, 'write');
      await this.#call(kind);
    } finally {
      await place.withdraw(FILES.state);
      await place.withdraw(FILES.memory);
    }
  }

  async #call(kind: 'full' | 'diff'): Promise<void> {
    await this.#options.api.call(snapshotCall(kind));
    this.#mayResume = true;
  }

  /** Takes a snapshot only for its effect on the vsock device, which even a failed one has. */
  async #takeThrowaway(): Promise<void> {
    const name = this.#options.place.path(`${FOLDER}/${randomUUID()}`);
    const files = { statePath: `${name}.s`, memoryPath: `${name}.m` };
    try {
      for (const path of Object.values(files)) await makePrivate(path);
      this.#ownerNeedsAll = true;
      await this.#create('diff', files);
    } catch (error) {
      const isRefused = error instanceof FirecrackerApiError && error.status !== null;
      if (!isRefused) throw error;
      ignore(error, 'only the attempt mattered');
    } finally {
      for (const path of Object.values(files)) await rm(path, { force: true });
    }
  }

  async #checkMemory(path: string): Promise<void> {
    await using file = await open(path, 'r');
    const { size } = await file.stat();
    if (size !== this.#options.memoryMib * MIB) throw broken(`its RAM has ${size} bytes`);
  }
}

/** Creates the file first: Firecracker would make it readable by all, but keeps the mode of an existing file. */
async function makePrivate(path: string): Promise<void> {
  await (await open(path, 'wx', 0o600)).close();
}

async function readState(path: string): Promise<Buffer> {
  const state = await readStateFile(path);
  if (state.length === 0) throw broken('its state is empty');
  return state;
}

function broken(cause: string): VmmError {
  return new VmmError('vmm_command_failed', 'Firecracker wrote an incomplete snapshot', { cause });
}

function unsupported(cause: string): VmmError {
  return new VmmError('vm_unsupported', 'could not take a snapshot of the VM', { cause });
}
