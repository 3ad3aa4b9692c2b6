/**
 * The RAM of templates for VMMs that map it copy-on-write: one file per template and process, whose pages all clones
 * share until they write to them.
 *
 * It is a copy, since a jail has it as a hard link: a link changes the time by which the cache's file is known to be
 * unaltered. It belongs to us and is read-only, so a VMM with a user id of its own can't change it for other clones;
 * the directories above it keep all other users out.
 */
import { chmod } from 'node:fs/promises';
import { join } from 'node:path';
import { newSandboxId } from '../base/ids.ts';
import type { Workspace } from '../sandbox/parts.ts';
import { cloneSparse } from '../sys/sparse-threads.ts';
import { makeWorkspace } from './workspace.ts';

const READ_BY_ALL = 0o444;

export class SharedRam {
  readonly #runDir: string;
  #workspace: Workspace | undefined;
  #made = 0;

  /** @param runDir on the file system of the jails; the next start removes what a killed process left there */
  constructor(runDir: string) {
    this.#runDir = runDir;
  }

  /**
   * Copies a RAM file, sharing its blocks where the file system can. One call at a time.
   * @returns path of the copy, which stays until `close`
   */
  async copy(from: string): Promise<string> {
    this.#workspace ??= await makeWorkspace(this.#runDir, newSandboxId());
    this.#made += 1;
    const path = join(this.#workspace.dir, `ram-${this.#made}`);
    await cloneSparse(from, path);
    await chmod(path, READ_BY_ALL);
    return path;
  }

  /** Call after the VMs have ended. Idempotent. */
  async close(): Promise<void> {
    const workspace = this.#workspace;
    this.#workspace = undefined;
    await workspace?.remove();
  }
}
