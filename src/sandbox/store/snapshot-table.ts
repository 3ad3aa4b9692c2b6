/** Rows of finished snapshots. */
import { type FileHandle, open } from 'node:fs/promises';
import type { DatabaseSync } from 'node:sqlite';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { asStoreError, StoreError } from './errors.ts';
import { type StoreParts, sweep } from './parts.ts';
import { parseRow } from './row.ts';
import {
  digestOf,
  filesSchema,
  type PerFile,
  rolesOf,
  type SnapshotPaths,
  type SnapshotRow,
  snapshotSchema,
} from './snapshot.ts';
import { newStaging, type Staging } from './staging.ts';

export interface SnapshotTable {
  /** @throws StoreError `disk_full` */
  stage(): Promise<Staging>;
  /**
   * Opens a snapshot and verifies every byte of its files, except an environment: that would take as long as several
   * starts, and only the guest reads it. A base is read again only if its file has changed since this process did so.
   * @param what `disk`: without the files of its memory, which may be damaged
   * @param checks `meanwhile`: returns before state, difference and disk are verified, for a VMM that starts while they are
   *   (`OpenSnapshot.whole`). Memory that others could share is always verified first
   * @throws StoreError `not_found`, `snapshot_damaged`
   */
  open(idOrName: string, what?: 'all' | 'disk', checks?: 'first' | 'meanwhile'): Promise<OpenSnapshot>;
  /**
   * Newest first, including pauses. The space of a base is counted for the oldest snapshot that needs it.
   * @param ownerOf with several owners, each has its own oldest, so that its view does not depend on the others.
   * Default: one owner
   */
  list(ownerOf?: (row: SnapshotRow) => string): Promise<readonly SnapshotRow[]>;
  /** @throws StoreError `not_found` */
  get(idOrName: string): Promise<SnapshotRow>;
  /**
   * Removes the snapshot and files that only it needs; open descriptors stay valid. @throws StoreError `not_found`,
   * `in_use`
   */
  remove(idOrName: string): Promise<void>;
}

export interface OpenSnapshot extends AsyncDisposable {
  readonly row: SnapshotRow;
  /** Readable in this process until `release`, even if the snapshot is removed. Read-only by contract. */
  readonly paths: SnapshotPaths;
  /**
   * Resolves when every byte is verified; nothing of the snapshot may run before. @throws StoreError `snapshot_damaged`
   */
  readonly whole: Promise<void>;
  /** Idempotent. */
  release(): Promise<void>;
}

/** Ids win over names. */
const SELECT = `SELECT s.*, json_group_object(f.role, f.digest) AS filesJson
  FROM snapshots s LEFT JOIN snapshotFiles f ON f.snapshotId = s.id`;
const FIND = `${SELECT} WHERE s.id = :key OR s.name = :key GROUP BY s.id ORDER BY s.id = :key DESC LIMIT 1`;
const BY_ID = `${SELECT} WHERE s.id = ? GROUP BY s.id`;
const IDS = 'SELECT id FROM snapshots ORDER BY createdAtMs DESC, rowid DESC';

export function snapshotTable(parts: StoreParts): SnapshotTable {
  const { db, dir } = parts;
  const fromRow = (row: unknown): SnapshotRow =>
    parseRow(dir, 'a snapshot', () => {
      const { filesJson, ...rest } = snapshotSchema.parse(row);
      const files = filesSchema.parse(JSON.parse(filesJson));
      const { environment, base } = files;
      return {
        ...rest,
        files,
        ...(base === undefined ? {} : { base }),
        ...(environment === undefined ? {} : { environment: `sha256:${environment}` }),
      };
    });
  const find = (sql: DatabaseSync, key: string): SnapshotRow => {
    const row = sql.prepare(FIND).get({ key });
    if (row === undefined) throw new StoreError('not_found', `no snapshot ${key}`);
    return fromRow(row);
  };
  /** Of the last list, by id. Rows never change, and parsing them again at each list would take the event loop. */
  let listed: ReadonlyMap<string, SnapshotRow> = new Map();
  const get = (key: string): Promise<SnapshotRow> => db.read(`read snapshot ${key}`, (sql) => find(sql, key));
  return {
    stage: () => newStaging(parts),
    open: async (key, what = 'all', checks = 'first') => {
      // Under the lock a row always has its files.
      const files = await parts.lock.run(async () => openFiles(parts, await get(key), what));
      const { opened, sharedWhole } = verifying(files, parts);
      try {
        await (checks === 'meanwhile' ? sharedWhole : opened.whole);
      } catch (error) {
        await opened.release();
        throw error;
      }
      return opened;
    },
    get,
    async list(ownerOf = () => '') {
      listed = await db.read('list snapshots', (sql) => {
        const byId = sql.prepare(BY_ID);
        const ids = sql.prepare(IDS).all();
        return new Map(ids.map(({ id }) => [`${id}`, listed.get(`${id}`) ?? fromRow(byId.get(id ?? null))]));
      });
      return withBases([...listed.values()], ownerOf);
    },
    async remove(key) {
      await db.write(`remove snapshot ${key}`, (sql) => {
        const { id } = find(sql, key);
        const user = sql.prepare('SELECT id FROM sandboxes WHERE pausedSnapshotId = ?').get(id);
        if (user !== undefined) {
          throw new StoreError('in_use', `snapshot ${key} is in use by sandbox ${user['id']}`, {
            remedy: `Resume or remove sandbox ${user['id']} first.`,
          });
        }
        sql.prepare('DELETE FROM snapshots WHERE id = ?').run(id);
      });
      await sweep(parts);
    },
  };
}

interface OpenedFiles {
  readonly row: SnapshotRow;
  readonly handles: ReadonlyMap<keyof PerFile, FileHandle>;
}

async function openFiles({ dir, files }: StoreParts, row: SnapshotRow, what: 'all' | 'disk'): Promise<OpenedFiles> {
  const handles = new Map<keyof PerFile, FileHandle>();
  const roles = what === 'disk' ? (['disk'] as const) : rolesOf(row);
  try {
    const shared = what === 'disk' ? (['environment'] as const) : (['base', 'environment'] as const);
    for (const role of [...roles, ...shared]) {
      const digest = row.files[role];
      if (digest !== undefined) handles.set(role, await open(files.pathOf(digest), 'r'));
    }
    return { row, handles };
  } catch (error) {
    await closeAll(handles);
    if (errorCode(error) === 'ENOENT') throw snapshotDamaged(row, 'a file is missing', error);
    throw asStoreError(error, `open snapshot ${row.id}`, dir);
  }
}

/** @returns `sharedWhole`: resolves when the files behind memory of several VMs are verified */
function verifying(
  { row, handles }: OpenedFiles,
  { dir, whole }: StoreParts,
): { readonly opened: OpenSnapshot; readonly sharedWhole: Promise<void> } {
  const paths: { -readonly [K in keyof PerFile]: PerFile[K] } = { disk: '' };
  const checks = new Map<keyof PerFile, Promise<void>>();
  const check = async (role: keyof PerFile, path: string, handle: FileHandle): Promise<void> => {
    const wanted = row.files[role] ?? '';
    try {
      const isWhole =
        role === 'base'
          ? await whole.isWhole(wanted, handle)
          : role === 'environment' || (await digestOf(role, path)) === wanted;
      if (!isWhole) throw snapshotDamaged(row, `its ${role} has changed`);
    } catch (error) {
      if (error instanceof StoreError) throw error;
      throw snapshotDamaged(row, `its ${role} can't be read`, error);
    }
  };
  for (const [role, handle] of handles) {
    const path = `/proc/self/fd/${handle.fd}`;
    paths[role] = path;
    checks.set(role, check(role, path, handle));
  }
  const all = [...checks.values()];
  const untilWhole = async (some: readonly (Promise<void> | undefined)[]): Promise<void> => {
    await Promise.all(some).catch((error: unknown) => {
      throw asStoreError(error, `open snapshot ${row.id}`, dir);
    });
  };
  const allWhole = untilWhole(all);
  const sharedWhole = untilWhole([checks.get('ram'), checks.get('base')]);
  for (const each of [allWhole, sharedWhole]) each.catch((error: unknown) => ignore(error, 'told to whom awaits it'));
  let released: Promise<void> | undefined;
  const release = (): Promise<void> => {
    // Threads read them by their descriptor numbers.
    released ??= Promise.allSettled(all).then(() => closeAll(handles));
    return released;
  };
  return { opened: { row, paths, whole: allWhole, release, [Symbol.asyncDispose]: release }, sharedWhole };
}

/** @param rows newest first */
function withBases(rows: readonly SnapshotRow[], ownerOf: (row: SnapshotRow) => string): readonly SnapshotRow[] {
  const keyOf = (row: SnapshotRow, digest = ''): string => `${digest} ${ownerOf(row)}`;
  const counted = new Set(rows.map((row) => keyOf(row, row.files.ram)));
  return rows
    .toReversed()
    .map((row) => {
      const key = keyOf(row, row.base);
      if (row.base === undefined || counted.has(key)) return row;
      counted.add(key);
      return { ...row, bytes: row.bytes + row.baseBytes };
    })
    .toReversed();
}

async function closeAll(handles: ReadonlyMap<keyof PerFile, FileHandle>): Promise<void> {
  for (const handle of handles.values()) await handle.close();
}

function snapshotDamaged(row: SnapshotRow, how: string, cause?: unknown): StoreError {
  return new StoreError('snapshot_damaged', `open snapshot ${row.name ?? row.id}: ${how}`, {
    ...(cause === undefined ? {} : { cause }),
    remedy: 'Remove the snapshot and create a new one.',
  });
}
