/**
 * Files whose digest this process has verified. Large files that many snapshots need are not read again while they are
 * unchanged: any write changes a file's ctime, which no call can set.
 */
import type { BigIntStats } from 'node:fs';
import { type FileHandle, stat } from 'node:fs/promises';
import { digestSparse } from '../../sys/sparse-threads.ts';

interface Known {
  readonly identity: string;
  readonly isWhole: Promise<boolean>;
}

export class WholeFiles {
  readonly #known = new Map<string, Known>();

  /** Whether the file's `digestSparse` is this digest. @throws an errno error if it can't be read */
  async isWhole(digest: string, file: FileHandle): Promise<boolean> {
    const identity = identityOf(await file.stat({ bigint: true }));
    const known = this.#known.get(digest);
    if (known?.identity === identity) return await known.isWhole;
    const found = digestSparse(`/proc/self/fd/${file.fd}`).then((text) => text === digest);
    const made = { identity, isWhole: found };
    this.#known.set(digest, made);
    const forget = (): void => {
      if (this.#known.get(digest) === made) this.#known.delete(digest);
    };
    try {
      const isWhole = await found;
      if (!isWhole) forget();
      return isWhole;
    } catch (error) {
      forget();
      throw error;
    }
  }

  /** Call after a file with a digest computed here was moved to this path. */
  async add(digest: string, path: string): Promise<void> {
    const identity = identityOf(await stat(path, { bigint: true }));
    this.#known.set(digest, { identity, isWhole: Promise.resolve(true) });
  }
}

function identityOf({ dev, ino, size, ctimeNs }: BigIntStats): string {
  return `${dev}:${ino}:${size}:${ctimeNs}`;
}
