/**
 * The disk with the result of a VM that builds: moved out of the VM's workspace before that is removed. Its content is
 * not read.
 */
import { chmod, chown, mkdir, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errorCode } from '../../base/errors.ts';
import { cloneSparse } from '../../sys/sparse-threads.ts';

export class OutputDisk {
  #to: string | null = null;
  #failure: unknown;

  /** Without this call the disk is removed with the workspace. */
  keepAt(path: string): void {
    this.#to = path;
  }

  /** Called while the workspace is removed, whose failures are only logged, so `take` throws this one. */
  async leave(disk: string): Promise<void> {
    if (this.#to === null) return;
    try {
      await move(disk, this.#to);
    } catch (error) {
      this.#failure = error;
    }
  }

  /**
   * Call after the VM has ended: cuts the disk to the image, which then belongs to the cache. A failure leaves nothing
   * behind.
   */
  async take(bytes: number): Promise<void> {
    const path = this.#to ?? '';
    try {
      if (this.#failure !== undefined) throw this.#failure;
      await chown(path, process.geteuid?.() ?? 0, process.getegid?.() ?? 0);
      await using file = await open(path, 'r+');
      await file.truncate(bytes);
      await file.chmod(0o644);
      await file.sync();
    } catch (error) {
      await rm(path, { force: true });
      throw error;
    }
  }
}

/** The run directory may be on another file system. The disk is sparse, and much larger than its data. */
async function move(from: string, to: string): Promise<void> {
  await mkdir(dirname(to), { recursive: true });
  try {
    await rename(from, to);
  } catch (error) {
    if (errorCode(error) !== 'EXDEV') throw error;
    await cloneSparse(from, to);
    await chmod(to, 0o600);
  }
}
