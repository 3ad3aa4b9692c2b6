/**
 * Sandboxes and snapshots that outlive their processes.
 *
 *     <dir>/store.db        rows: SQLite in WAL mode, one connection per process
 *           files/<digest>  RAM, device state and disk of snapshots, each once, never changed
 *           volumes/<id>    disks that outlive sandboxes
 *           staging/        snapshots being written
 *           trash/          files being removed
 *           lock            held (flock) while files move
 *           reserve         space to free when the disk is full
 *
 * Any number of processes use the store at once, and each may be killed at any moment. Three rules:
 *
 * 1. A file is needed if and only if a row names its digest; there are no counts. `sweep` removes every file
 *    that no row names.
 * 2. Files enter and leave `files/` only under the lock: a file comes before its row and goes after it. So a
 *    row always has its files, and no sweep removes a file that is about to be named.
 * 3. Unfinished files lie in a directory that their process has locked. The kernel releases the lock when the
 *    process dies, and then any process may remove the directory.
 *
 * An open snapshot is held by descriptors, so it can be removed at any time. Rows may hold users' secrets, so their
 * requests are sealed (`sealing.ts`); the directory is 0700, its files 0600.
 */
import { closeSync, existsSync, openSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';
import { ownerKeysDir } from '../../base/key-file.ts';
import type { Log } from '../../base/log.ts';
import { BaseCopies } from './base-copies.ts';
import { Database } from './database.ts';
import { asStoreError } from './errors.ts';
import { Files, type Swept } from './files.ts';
import { FileLock } from './lock.ts';
import { OwnerKeys } from './owner-keys.ts';
import { type StoreParts, sweep } from './parts.ts';
import { RecentBases } from './recent-bases.ts';
import { keepReserve } from './reserve.ts';
import { type SandboxTable, sandboxTable, sealPlainRows } from './sandbox-table.ts';
import { openSealing } from './sealing.ts';
import { SecretTable } from './secret-table.ts';
import { type SnapshotTable, snapshotTable } from './snapshot-table.ts';
import { VolumeTable } from './volume-table.ts';
import { WholeFiles } from './whole-files.ts';

export interface StoreOptions {
  /** Created with mode 0700 if missing. */
  readonly dir: string;
  /**
   * File of the key that seals requests; created if missing. Outside of `dir`, so that a copy of `dir` discloses no
   * secret.
   */
  readonly keyPath: string;
  readonly clock: Clock;
  readonly log: Log;
  /** Time in milliseconds that a base stays after the last save that needed it, while this store is open. Default 0. */
  readonly basesKeptMs?: number | undefined;
}

export interface Store extends AsyncDisposable {
  readonly sandboxes: SandboxTable;
  readonly snapshots: SnapshotTable;
  readonly volumes: VolumeTable;
  readonly secrets: SecretTable;
  /** Of saves that are encrypted; in the directory `<keyPath>s`. */
  readonly keys: OwnerKeys;
  /** Removes unneeded files, never used ones; `openStore` and each removal do it, too. */
  collect(): Promise<Swept>;
  /** Discards staged snapshots; opened snapshots stay open. Idempotent. */
  close(): Promise<void>;
}

/** @throws StoreError `store_damaged`, `store_newer`, `store_unavailable`, `store_busy`, `disk_full` */
export async function openStore(options: StoreOptions): Promise<Store> {
  const { dir, keyPath, clock, log, basesKeptMs = 0 } = options;
  const recent = new RecentBases(clock, basesKeptMs);
  const parts = { ...(await openParts(dir, keyPath, clock)), recent };
  let closed: Promise<void> | undefined;
  const close = (): Promise<void> => {
    closed ??= leave(parts);
    return closed;
  };
  const collect = async (): Promise<Swept> => {
    const swept = await sweep(parts);
    await keepReserve(reservePath(dir));
    if (swept.files > 0 || swept.abandoned > 0) log.info('removed unneeded files', { ...swept });
    return swept;
  };
  try {
    await collect();
    const count = await sealPlainRows(parts);
    if (count > 0) log.warn('sandboxes were sealed with another key and can not be resumed', { count, keyPath });
  } catch (error) {
    await close();
    throw error;
  }
  return {
    sandboxes: sandboxTable(parts),
    snapshots: snapshotTable(parts),
    volumes: new VolumeTable(parts),
    secrets: new SecretTable(parts),
    keys: new OwnerKeys(ownerKeysDir(keyPath), parts.sealing),
    collect,
    close,
    [Symbol.asyncDispose]: close,
  };
}

const reservePath = (dir: string): string => join(dir, 'reserve');

async function openParts(dir: string, keyPath: string, clock: Clock): Promise<Omit<StoreParts, 'recent'>> {
  let lock: FileLock | undefined;
  try {
    const files = new Files(dir);
    const sealing = await openSealing(keyPath);
    const opened = new FileLock(join(dir, 'lock'), clock);
    lock = opened;
    return await opened.run(async () => {
      const path = join(dir, 'store.db');
      createPrivate(path);
      const db = await Database.open({ dir, path, reservePath: reservePath(dir) }, clock);
      try {
        await using directory = await open(dir, 'r');
        await directory.sync();
        files.enter();
      } catch (error) {
        db.close();
        throw error;
      }
      const own = { whole: new WholeFiles(), copies: new BaseCopies() };
      return { dir, clock, db, files, lock: opened, sealing, ...own };
    });
  } catch (error) {
    await lock?.close();
    throw asStoreError(error, 'open the store', dir);
  }
}

/**
 * Creates the database file, which SQLite would make readable for all. An existing file must not even be opened:
 * closing it would release SQLite's locks of a store that this process has open (fcntl(2), "Record locks").
 */
function createPrivate(path: string): void {
  if (!existsSync(path)) closeSync(openSync(path, 'wx', 0o600));
}

async function leave(parts: StoreParts): Promise<void> {
  const { db, files, lock, recent } = parts;
  if (recent.clear()) {
    await sweep(parts).catch((error: unknown) => ignore(error, 'the next process removes them'));
  }
  await lock.run(async () => {
    await files.leave();
    db.close();
  });
  await files.emptyTrash();
  await lock.close();
}
