/**
 * One connection to the database. Statements are short and synchronous. Waiting for another process is asynchronous:
 * SQLite's busy handler would sleep in the event loop, so it is off and the wait is here.
 *
 * `synchronous = NORMAL`: a commit survives the death of any process at once, and a power failure after the next
 * `sync`. So starting a sandbox waits for no disk; keeping a snapshot does, off the event loop.
 */
import { open } from 'node:fs/promises';
import { DatabaseSync } from 'node:sqlite';
import { type Clock, sleep } from '../../base/clock.ts';
import { asStoreError, damaged, isBusy, isDiskFull, StoreError } from './errors.ts';
import { POLL_MS, WAIT_MS_MAX } from './limits.ts';
import { spendReserve } from './reserve.ts';
import { migrate } from './schema.ts';

export interface DatabaseFiles {
  /** Directory of the store, for messages. */
  readonly dir: string;
  /** An existing file, empty for a new store; SQLite copies its mode to the files beside it. */
  readonly path: string;
  readonly reservePath: string;
}

export class Database {
  readonly #files: DatabaseFiles;
  readonly #clock: Clock;
  readonly #db: DatabaseSync;

  private constructor(files: DatabaseFiles, clock: Clock) {
    this.#files = files;
    this.#clock = clock;
    this.#db = new DatabaseSync(files.path, { timeout: 0, enableForeignKeyConstraints: true });
  }

  /** @throws StoreError `store_damaged`, `store_newer`, `store_unavailable`, `store_busy`, `disk_full` */
  static async open(files: DatabaseFiles, clock: Clock): Promise<Database> {
    let database: Database;
    try {
      database = new Database(files, clock);
    } catch (error) {
      throw asStoreError(error, 'open the store', files.dir);
    }
    try {
      await database.#prepare();
      return database;
    } catch (error) {
      database.close();
      throw error;
    }
  }

  /** @param attempted the operation, for error messages. @throws StoreError */
  read<T>(attempted: string, run: (db: DatabaseSync) => T): Promise<T> {
    return this.#whenFree(attempted, () => run(this.#db));
  }

  /** Runs `run` in a transaction. It may run again, so it must have no other side effects. @throws StoreError */
  write<T>(attempted: string, run: (db: DatabaseSync) => T): Promise<T> {
    return this.#whenFree(attempted, () => {
      this.#db.exec('BEGIN IMMEDIATE');
      try {
        const result = run(this.#db);
        this.#db.exec('COMMIT');
        return result;
      } catch (error) {
        if (this.#db.isTransaction) this.#db.exec('ROLLBACK');
        throw error;
      }
    });
  }

  /** Makes all commits so far survive a power failure. */
  async sync(): Promise<void> {
    await using log = await open(`${this.#files.path}-wal`, 'r');
    await log.datasync();
  }

  /**
   * Erases the remains of rows that were removed or replaced without `secure_delete`, from the database and its log.
   */
  async rewrite(): Promise<void> {
    await this.read('rewrite the store', (db) => {
      // Don't let VACUUM use a temporary file elsewhere.
      db.exec('PRAGMA temp_store = MEMORY; VACUUM; PRAGMA wal_checkpoint(TRUNCATE);');
    });
  }

  close(): void {
    if (this.#db.isOpen) this.#db.close();
  }

  async #prepare(): Promise<void> {
    await this.read('open the store', (db) => {
      // Overwrite replaced and removed rows: older ones hold secrets in plain text.
      db.exec('PRAGMA secure_delete = ON;');
      db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;');
      const found = db.prepare('PRAGMA quick_check(1)').get()?.['quick_check'];
      if (found !== 'ok') throw damaged('open the store', this.#files.dir, new Error(`${found}`));
    });
    await this.write('open the store', (db) => migrate(db, this.#files.dir));
  }

  async #whenFree<T>(attempted: string, run: () => T): Promise<T> {
    const deadlineMs = this.#clock.now() + WAIT_MS_MAX;
    for (;;) {
      try {
        return run();
      } catch (error) {
        const again = isDiskFull(error) && spendReserve(this.#files.reservePath);
        if (!again && !isBusy(error)) throw asStoreError(error, attempted, this.#files.dir);
        if (this.#clock.now() >= deadlineMs) {
          throw new StoreError('store_busy', `${attempted}: another process holds the store`, {
            cause: error,
            remedy: 'End the NeuroVisor process that hangs, then retry.',
          });
        }
      }
      await sleep(POLL_MS);
    }
  }
}
