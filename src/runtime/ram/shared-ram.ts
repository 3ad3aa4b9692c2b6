/**
 * RAM files for VMMs that map them copy-on-write: all clones of one file share its pages until they write to them.
 *
 *     template of the cache ──copy──► one file per process ─┐
 *     snapshot or pause of the store, RAM of a fork ────────┴─► hard link or mount in each jail
 *
 * A template is copied, since a link changes the time by which the cache's file is known to be unaltered. The files
 * belong to us and are read-only for others, so a VMM with a user id of its own can't change them, and an ordinary user's
 * has them in a read-only mount; the directories above them keep all other users out.
 */
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { newSandboxId } from '../../base/ids.ts';
import type { MappedMemory, Workspace } from '../../sandbox/parts.ts';
import { cloneSparse, copyDataInto } from '../../sys/sparse-threads.ts';
import { makeWorkspace } from '../workspace.ts';
import type { CloneRam, RamFile, SharedCopy } from './parts.ts';

const READ_BY_ALL = 0o444;

export class SharedRam implements CloneRam {
  readonly #runDir: string;
  #workspace: Workspace | undefined;
  #made = 0;

  /** @param runDir on the file system of the jails; the next start removes what a killed process left there */
  constructor(runDir: string) {
    this.#runDir = runDir;
  }

  /** Copies a RAM file, sharing its blocks where the file system can. One call at a time. */
  async copy({ path: from }: RamFile): Promise<SharedCopy> {
    const first = new FileCopy(await this.#copyOf(from));
    const copies = new Map<string, Promise<FileCopy>>();
    let isDropped = false;
    const copyFor = (): Promise<FileCopy> =>
      copies.size === 0 ? Promise.resolve(first) : this.#furtherCopy(first);
    return {
      open: async (sharers) => {
        // A copy that is made now would stay until the end of this process.
        if (isDropped) throw new Error('the RAM was dropped');
        const copying = copies.get(sharers) ?? copyFor();
        copies.set(sharers, copying);
        // A copy that failed, of a full disk say, is made again for the next.
        copying.catch(() => copies.delete(sharers));
        return await (await copying).open();
      },
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

  /** Its files are on a disk. */
  get bytes(): number {
    return 0;
  }

  /** Call after the VMs have ended. Idempotent. */
  async close(): Promise<void> {
    const workspace = this.#workspace;
    this.#workspace = undefined;
    await workspace?.remove();
  }

  async #furtherCopy(of: FileCopy): Promise<FileCopy> {
    return new FileCopy(await this.#copyOf(of.path));
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
  #users = 0;
  #isDropped = false;

  constructor(path: string) {
    this.path = path;
  }

  async open(): Promise<MappedMemory> {
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
    this.#isDropped = true;
    await this.#removeUnused();
  }

  async #leave(): Promise<void> {
    this.#users -= 1;
    await this.#removeUnused();
  }

  async #removeUnused(): Promise<void> {
    if (this.#isDropped && this.#users === 0) await rm(this.path, { force: true });
  }
}

/** Opens a RAM file on the file system of the jails. As root, whose VMMs have other users, it becomes readable by all. */
async function mapMemory(path: string): Promise<MappedMemory> {
  const file = await open(path, 'r');
  try {
    if (process.geteuid?.() === 0) await file.chmod(READ_BY_ALL);
  } catch (error) {
    await file.close();
    throw error;
  }
  return {
    path,
    copyInto: (target) => copyDataInto(`/proc/self/fd/${file.fd}`, target),
    close: () => file.close(),
  };
}
