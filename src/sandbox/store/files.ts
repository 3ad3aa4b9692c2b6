/**
 * The files of the store's directory, by name only. The rows decide which of them are needed.
 *
 *     staging/<process>/<n>/   being written; locked (flock) while the process lives
 *     files/<digest>           finished, never changed
 *     trash/                   discarded: moved here at once, removed later
 */
import { randomUUID } from 'node:crypto';
import { chmodSync, closeSync, mkdirSync, openSync, renameSync } from 'node:fs';
import { lstat, mkdtemp, open, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { assert } from '../../base/assert.ts';
import { errorCode } from '../../base/errors.ts';
import { awaitOr, ignore } from '../../base/ignore.ts';
import { STAT_BLOCK_BYTES } from '../../base/units.ts';
import { tryLockExclusive } from '../../sys/file.ts';
import { StoreError } from './errors.ts';

export interface Swept {
  readonly files: number;
  /** Freed space on disk. */
  readonly bytes: number;
  /** Number of staging directories of dead processes. */
  readonly abandoned: number;
}

export class Files {
  readonly #staging: string;
  readonly #files: string;
  readonly #trash: string;
  /** The latest removal. */
  #emptied: Promise<void> = Promise.resolve();
  /** This process's part of `staging`. */
  readonly #own: string;
  #ownLock: number | undefined;

  constructor(dir: string) {
    this.#staging = join(dir, 'staging');
    this.#files = join(dir, 'files');
    this.#trash = join(dir, 'trash');
    this.#own = join(this.#staging, randomUUID());
    for (const path of [dir, this.#staging, this.#files, this.#trash]) {
      mkdirSync(path, { recursive: true, mode: 0o700 });
    }
    // The directory may predate this rule, or be made by hand.
    chmodSync(dir, 0o700);
  }

  /** Call under the store's lock: a directory that is not locked yet looks abandoned. */
  enter(): void {
    mkdirSync(this.#own, { mode: 0o700 });
    this.#ownLock = openSync(this.#own, 'r');
    assert(tryLockExclusive(this.#ownLock), 'no other process knows the name of the directory');
  }

  /** Creates a directory for the caller, on the file system of the finished files. @throws StoreError `store_closed` */
  async newStagingDir(): Promise<string> {
    if (this.#ownLock === undefined) throw new StoreError('store_closed', 'prepare a snapshot');
    return await mkdtemp(join(this.#own, 's-'));
  }

  pathOf(digest: string): string {
    return join(this.#files, digest);
  }

  /**
   * Moves staged files to their digests. Call under the store's lock. Replaces an existing file: the content is the
   * same, and a damaged file is repaired. Open descriptors keep the old file.
   */
  async place(staged: ReadonlyMap<string, string>): Promise<void> {
    for (const [digest, path] of staged) await rename(path, this.pathOf(digest));
    await using dir = await open(this.#files, 'r');
    await dir.sync();
  }

  /** Discards unneeded files and abandoned staging directories. Call under the store's lock. */
  async sweep(isNeeded: (digest: string) => boolean): Promise<Swept> {
    let [files, bytes, abandoned] = [0, 0, 0];
    for (const name of await readdir(this.#files)) {
      if (isNeeded(name)) continue;
      bytes += (await lstat(this.pathOf(name))).blocks * STAT_BLOCK_BYTES;
      files += 1;
      await this.discard(this.pathOf(name));
    }
    for (const name of await readdir(this.#staging)) {
      if (this.#takeIfAbandoned(join(this.#staging, name))) abandoned += 1;
    }
    return { files, bytes, abandoned };
  }

  /** Moves a file or directory to the trash; `emptyTrash` removes it. */
  async discard(path: string): Promise<void> {
    try {
      await rename(path, join(this.#trash, randomUUID()));
    } catch (error) {
      if (errorCode(error) !== 'ENOENT') throw error;
      ignore(error, 'it is gone already');
    }
  }

  /**
   * Removes the trash. Needs no lock, since no other code knows the names in it. Runs one at a time: two removals of
   * the same directory would take each other's files and both fail.
   */
  async emptyTrash(): Promise<void> {
    const turn = this.#emptied.then(() => this.#removeTrash());
    this.#emptied = turn.catch((error: unknown) => ignore(error, 'reported to its caller'));
    await turn;
  }

  async #removeTrash(): Promise<void> {
    for (const name of await readdir(this.#trash)) {
      await awaitOr(undefined, 'another process or the next removal removes it', () =>
        rm(join(this.#trash, name), { recursive: true, force: true }),
      );
    }
  }

  async leave(): Promise<void> {
    await this.discard(this.#own);
    if (this.#ownLock !== undefined) closeSync(this.#ownLock);
    this.#ownLock = undefined;
  }

  #takeIfAbandoned(path: string): boolean {
    const fd = openSync(path, 'r');
    try {
      if (!tryLockExclusive(fd)) return false;
      renameSync(path, join(this.#trash, randomUUID()));
      return true;
    } finally {
      closeSync(fd);
    }
  }
}
