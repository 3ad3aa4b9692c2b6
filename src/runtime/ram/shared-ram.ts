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

const READ_BY_ALL = 0o444;

/** A copy of a RAM file; it stays until `drop` and the end of all that `open` gave out. */
export interface SharedCopy {
  open(): Promise<MappedMemory>;
  /** Nothing opens it any more. Removes the file, at the latest when its last user closes it. */
  drop(): Promise<void>;
}

export class SharedRam {
  readonly #runDir: string;
  #workspace: Workspace | undefined;
  #made = 0;

  /** @param runDir on the file system of the jails; the next start removes what a killed process left there */
  constructor(runDir: string) {
    this.#runDir = runDir;
  }

  /** Copies a RAM file, sharing its blocks where the file system can. One call at a time. */
  async copy(from: string): Promise<SharedCopy> {
    this.#workspace ??= await makeWorkspace(this.#runDir, newSandboxId());
    this.#made += 1;
    const path = join(this.#workspace.dir, `ram-${this.#made}`);
    await cloneSparse(from, path);
    return sharedCopy(path);
  }

  map(path: string): Promise<MappedMemory> {
    return mapMemory(path);
  }

  /** Call after the VMs have ended. Idempotent. */
  async close(): Promise<void> {
    const workspace = this.#workspace;
    this.#workspace = undefined;
    await workspace?.remove();
  }
}

function sharedCopy(path: string): SharedCopy {
  let users = 0;
  let isDropped = false;
  const removeUnused = async (): Promise<void> => {
    if (isDropped && users === 0) await rm(path, { force: true });
  };
  const leave = async (): Promise<void> => {
    users -= 1;
    await removeUnused();
  };
  return {
    async open() {
      users += 1;
      try {
        const mapped = await mapMemory(path);
        let closing: Promise<void> | undefined;
        const close = (): Promise<void> => {
          closing ??= mapped.close().finally(leave);
          return closing;
        };
        return { ...mapped, close };
      } catch (error) {
        await leave();
        throw error;
      }
    },
    async drop() {
      isDropped = true;
      await removeUnused();
    },
  };
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
