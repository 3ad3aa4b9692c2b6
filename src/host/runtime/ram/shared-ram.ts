/**
 * RAM files for VMMs that map them copy-on-write: all clones of one file share its pages until they write to them.
 *
 *     template of the cache ──copy──► one file per process ─┐
 *     snapshot or pause of the store, RAM of a fork ────────┴─► hard link or mount in each jail
 *
 * A template is copied, since a link changes the ctime by which the cache's file is known to be unaltered. The files
 * belong to us and are read-only for others, so a VMM with a user id of its own can't change them, and an ordinary user's
 * has them in a read-only mount; the directories above them keep all other users out.
 */
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Clock, systemClock } from '../../../base/clock.ts';
import { newSandboxId } from '../../../base/ids.ts';
import { ignore } from '../../../base/ignore.ts';
import type { MappedMemory, Workspace } from '../../../sandbox/contract/parts.ts';
import { cloneSparse, copyDataInto } from '../../../sys/sparse-threads.ts';
import { makeWorkspace } from '../workspace.ts';
import { type CloneRam, type RamFile, type SharedCopy, UNUSED_MS_MAX } from './parts.ts';

const READ_BY_ALL = 0o444;

export class SharedRam implements CloneRam {
  readonly #runDir: string;
  readonly #clock: Clock;
  #workspace: Workspace | undefined;
  #made = 0;

  /** @param runDir on the file system of the jails; the next start removes what a killed process left there */
  constructor(runDir: string, clock: Clock = systemClock) {
    this.#runDir = runDir;
    this.#clock = clock;
  }

  /** Copies a RAM file, sharing its blocks if the file system can. One call at a time. */
  async copy({ path: from }: RamFile): Promise<SharedCopy> {
    const first = new FileCopy(await this.#copyOf(from));
    const copies = new Map<string, Promise<FileCopy>>();
    let isDropped = false;
    // The first copy stays for later users; otherwise there would be as many as there ever were tenants.
    const copyFor = (sharers: string): Promise<FileCopy> =>
      copies.size === 0 ? Promise.resolve(first) : this.#furtherCopy(first, () => copies.delete(sharers));
    return {
      open: async (sharers) => {
        // A copy made now would stay until the end of this process.
        if (isDropped) throw new Error('the RAM was dropped');
        const copying = copies.get(sharers) ?? copyFor(sharers);
        copies.set(sharers, copying);
        // A failed copy, for example on a full disk, is made again for the next user.
        copying.catch(() => copies.delete(sharers));
        return await (await copying).open();
      },
      needOf: () => undefined,
      drop: async () => {
        isDropped = true;
        const made = await Promise.allSettled(copies.values());
        const further = made.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
        await Promise.all([first, ...further].map((one) => one.drop()));
      },
    };
  }

  map({ path }: RamFile): Promise<MappedMemory> {
    return mapMemory(path);
  }

  /** Files are on disk, so they count 0. */
  readonly bytes = 0;
  readonly pendingBytes = 0;
  readonly unusedBytes = 0;

  needOf(): undefined {
    return undefined;
  }

  async dropUnused(): Promise<void> {}

  /** Call after the VMs have ended. Idempotent. */
  async close(): Promise<void> {
    const workspace = this.#workspace;
    this.#workspace = undefined;
    await workspace?.remove();
  }

  /** @param forget called when it opens no more, after a while without users */
  async #furtherCopy(of: FileCopy, forget: () => void): Promise<FileCopy> {
    const copy: FileCopy = new FileCopy(await this.#copyOf(of.path), () =>
      this.#clock.after(UNUSED_MS_MAX, () => {
        forget();
        copy.drop().catch((error: unknown) => ignore(error, 'it goes with the directory'));
      }),
    );
    return copy;
  }

  async #copyOf(from: string): Promise<string> {
    this.#workspace ??= await makeWorkspace(this.#runDir, newSandboxId());
    this.#made += 1;
    const path = join(this.#workspace.dir, `ram-${this.#made}`);
    await cloneSparse(from, path);
    return path;
  }
}

class FileCopy {
  readonly path: string;
  readonly #onUnused: () => () => void;
  #users = 0;
  #isDropped = false;
  #stopWaiting = (): void => undefined;

  /**
   * @param onUnused called when the last user has left; the returned function is called when a new one comes, or at
   * `drop`
   */
  constructor(path: string, onUnused: () => () => void = () => () => undefined) {
    this.path = path;
    this.#onUnused = onUnused;
  }

  async open(): Promise<MappedMemory> {
    this.#stopWaiting();
    this.#users += 1;
    try {
      const mapped = await mapMemory(this.path);
      let closing: Promise<void> | undefined;
      const close = (): Promise<void> => {
        closing ??= mapped.close().finally(() => this.#leave());
        return closing;
      };
      return { ...mapped, close };
    } catch (error) {
      await this.#leave();
      throw error;
    }
  }

  async drop(): Promise<void> {
    this.#stopWaiting();
    this.#isDropped = true;
    await this.#removeUnused();
  }

  async #leave(): Promise<void> {
    this.#users -= 1;
    if (this.#users === 0 && !this.#isDropped) this.#stopWaiting = this.#onUnused();
    await this.#removeUnused();
  }

  async #removeUnused(): Promise<void> {
    if (this.#isDropped && this.#users === 0) await rm(this.path, { force: true });
  }
}

/**
 * Opens a RAM file on the file system of the jails. For root, whose VMMs have other users, it becomes readable by all.
 */
async function mapMemory(path: string): Promise<MappedMemory> {
  const file = await open(path, 'r');
  try {
    if (process.geteuid?.() === 0) await file.chmod(READ_BY_ALL);
  } catch (error) {
    await file.close();
    throw error;
  }
  return { path, copyInto: (target) => copyDataInto(`/proc/self/fd/${file.fd}`, target), close: () => file.close() };
}
