/**
 * The files of the store's directory, by name only: which of them are needed, the rows say.
 *
 *     staging/<process>/<n>/   what is being written; locked (flock) for as long as its process lives
 *     files/<digest>           finished, never changed
 *     trash/                   given up: moved there at once, removed in peace
 */
import { randomUUID } from 'node:crypto';
import { chmodSync, closeSync, mkdirSync, openSync, renameSync } from 'node:fs';
import { lstat, mkdtemp, open, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { assert } from '../base/assert.ts';
import { errorCode } from '../base/errors.ts';
import { ignore } from '../base/ignore.ts';
import { tryLockExclusive } from '../sys/file.ts';
import { StoreError } from './errors.ts';

/** What `sweep` took away. */
export interface Swept {
  readonly files: number;
  /** On the disk. */
  readonly bytes: number;
  /** Processes that died before they had finished or discarded what they wrote. */
  readonly abandoned: number;
}

/** Of `st_blocks` (stat(2)). */
export const BLOCK_BYTES = 512;

export class Files {
  readonly #staging: string;
  readonly #files: string;
  readonly #trash: string;
  /** The last removal that was begun. */
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
    // It may be older than this rule, or made by a person.
    chmodSync(dir, 0o700);
  }

  /** Call it under the store's lock: a directory that is not locked yet looks abandoned. */
  enter(): void {
    mkdirSync(this.#own, { mode: 0o700 });
    this.#ownLock = openSync(this.#own, 'r');
    assert(tryLockExclusive(this.#ownLock), 'nobody else knows the name of the directory');
  }

  /** A new directory of the caller's, on the file system of the finished files. @throws StoreError `store_closed` */
  async newStagingDir(): Promise<string> {
    if (this.#ownLock === undefined) throw new StoreError('store_closed', 'prepare a snapshot');
    return await mkdtemp(join(this.#own, 's-'));
  }

  pathOf(digest: string): string {
    return join(this.#files, digest);
  }

  /**
   * Under the store's lock. One that is there already is replaced: it has the same content, and if it was
   * damaged since, it is whole again. Who has it open keeps what he has.
   */
  async place(staged: ReadonlyMap<string, string>): Promise<void> {
    for (const [digest, path] of staged) await rename(path, this.pathOf(digest));
    await using dir = await open(this.#files, 'r');
    await dir.sync();
  }

  /** Under the store's lock. */
  async sweep(isNeeded: (digest: string) => boolean): Promise<Swept> {
    let [files, bytes, abandoned] = [0, 0, 0];
    for (const name of await readdir(this.#files)) {
      if (isNeeded(name)) continue;
      bytes += (await lstat(this.pathOf(name))).blocks * BLOCK_BYTES;
      files += 1;
      await this.discard(this.pathOf(name));
    }
    for (const name of await readdir(this.#staging)) {
      if (this.#takeIfAbandoned(join(this.#staging, name))) abandoned += 1;
    }
    return { files, bytes, abandoned };
  }

  /** Takes a file or directory out of the way; `emptyTrash` removes it. */
  async discard(path: string): Promise<void> {
    try {
      await rename(path, join(this.#trash, randomUUID()));
    } catch (error) {
      if (errorCode(error) !== 'ENOENT') throw error;
      ignore(error, 'what is to be discarded is gone already');
    }
  }

  /**
   * Needs no lock: nothing in there has a name that anybody knows. Never fails what has been done before.
   * One at a time: two that remove the same directory take each other's files away, and both give it up.
   */
  async emptyTrash(): Promise<void> {
    const turn = this.#emptied.then(() => this.#removeTrash());
    this.#emptied = turn.catch((error: unknown) => ignore(error, 'its own caller is told'));
    await turn;
  }

  async #removeTrash(): Promise<void> {
    for (const name of await readdir(this.#trash)) {
      try {
        await rm(join(this.#trash, name), { recursive: true, force: true });
      } catch (error) {
        ignore(error, 'another process removes it too, or the next removal does');
      }
    }
  }

  /** Ends what this process stages. */
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
