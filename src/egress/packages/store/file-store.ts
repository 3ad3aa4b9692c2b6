/**
 * Files of packages on disk, by digest, so that all sandboxes share them and a file can't change (io). Bounded: the
 * least recently used files are removed first. Several processes may share the directory.
 */

import { randomUUID } from 'node:crypto';
import { type FileHandle, mkdir, open, readdir, rename, rm, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { ifThere } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import { namesIn } from '../../../base/names-in.ts';
import { MIB } from '../../../base/units.ts';
import { PackageError } from '../errors.ts';

/** An open file. Eviction does not affect its reader, who closes it. */
export interface StoredFile {
  readonly handle: FileHandle;
  readonly sizeBytes: number;
}

const KEY = /^[a-z0-9]+-[0-9a-f]{40,128}$/;
/** Files of killed processes; old ones are removed. */
const TEMPORARY = /^\.new-/;
const TEMPORARY_MS_MAX = 24 * 3_600_000;
/** Free space beyond the file, for what others write meanwhile and files of unknown size. */
const FREE_BYTES_MIN = 8 * MIB;

export type FreeBytes = (dir: string) => Promise<number>;

const freeBytesOf: FreeBytes = async (dir) => {
  const { bavail, bsize } = await statfs(dir);
  return bavail * bsize;
};

export class FileStore {
  readonly #dir: string;
  readonly #bytesMax: number;
  readonly #freeBytes: FreeBytes;
  #temporaryBytes = 0;
  #evicting = Promise.resolve();

  constructor(dir: string, bytesMax: number, freeBytes = freeBytesOf) {
    this.#dir = dir;
    this.#bytesMax = bytesMax;
    this.#freeBytes = freeBytes;
  }

  /** Undefined if it is not there. Counts as a use. */
  async find(key: string): Promise<StoredFile | undefined> {
    const handle = await ifThere(open(this.#path(key), 'r'));
    if (handle === undefined) return undefined;
    try {
      const { size: sizeBytes } = await handle.stat();
      const now = new Date();
      await handle.utimes(now, now);
      return { handle, sizeBytes };
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  async temporary(): Promise<string> {
    // Each time, since the owner may have removed it.
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
    return join(this.#dir, `.new-${randomUUID()}`);
  }

  /**
   * Call before the head of an answer: a client takes a truncated file for a network failure, and retries.
   * @param bytes `null` if unknown
   * @throws PackageError `disk_full`
   */
  async requireRoom(bytes: number | null): Promise<void> {
    if ((await this.#freeBytes(this.#dir)) < (bytes ?? 0) + FREE_BYTES_MIN) {
      throw noRoom(bytes === null ? undefined : `the file has ${Math.ceil(bytes / MIB)} MiB`);
    }
  }

  /**
   * Counts bytes of a download. Downloads may take as much space again as the kept files.
   * @throws PackageError `upstream_invalid` if all downloads together exceed that
   */
  reserve(bytes: number): void {
    if (this.#temporaryBytes + bytes > this.#bytesMax) {
      throw new PackageError('upstream_invalid', 'the downloads under way are larger than the cache', {
        remedy: 'fetch fewer large files at once',
      });
    }
    this.#temporaryBytes += bytes;
  }

  release(bytes: number): void {
    this.#temporaryBytes -= bytes;
  }

  /** Moves a complete, checked file into its place. */
  async keep(temporary: string, key: string): Promise<void> {
    const path = this.#path(key);
    await rename(temporary, path);
    this.#evicting = this.#evicting
      .then(() => this.#evict(path))
      .catch((error: unknown) => ignore(error, 'the next file evicts'));
  }

  /** Removes a file whose bytes have changed. */
  async drop(key: string): Promise<void> {
    await rm(this.#path(key), { force: true });
  }

  /** Removes all complete files. Readers of open ones and downloads under way are not affected. */
  async clear(): Promise<void> {
    for (const name of await namesIn(this.#dir)) {
      if (KEY.test(name)) await rm(join(this.#dir, name), { force: true });
    }
  }

  async settled(): Promise<void> {
    await this.#evicting;
  }

  #path(key: string): string {
    if (!KEY.test(key)) throw new Error(`invalid key "${key}"`);
    return join(this.#dir, key);
  }

  async #evict(except: string): Promise<void> {
    const files: { path: string; bytes: number; usedMs: number }[] = [];
    for (const name of await readdir(this.#dir)) {
      const path = join(this.#dir, name);
      const found = await stat(path).catch(() => undefined);
      if (found === undefined) continue;
      if (!TEMPORARY.test(name)) {
        files.push({ path, bytes: found.size, usedMs: found.mtimeMs });
      } else if (Date.now() - found.mtimeMs > TEMPORARY_MS_MAX) {
        await rm(path, { force: true });
      }
    }
    let total = files.reduce((sum, { bytes }) => sum + bytes, 0);
    files.sort((a, b) => a.usedMs - b.usedMs);
    for (const { path, bytes } of files) {
      if (total <= this.#bytesMax) return;
      if (path === except) continue;
      await rm(path, { force: true });
      total -= bytes;
    }
  }
}

export function noRoom(cause?: unknown): PackageError {
  return new PackageError('disk_full', 'the disk of the package cache has no room', {
    cause,
    remedy: 'free space there, or set NEUROVISOR_HOME to a larger file system',
  });
}
