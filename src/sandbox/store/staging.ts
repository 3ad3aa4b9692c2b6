/**
 * Adds a snapshot to the store, completely or not at all.
 *
 *     write files ─► digest, to the disk ─► │ rename into files/ ─► rows │ ─► to the disk
 *     (the caller)                          └───── the store's lock ─────┘
 *
 * A kill before the rows are written leaves unnamed files, which the next `collect` removes; after, the snapshot is complete.
 */
import { type FileHandle, open, stat } from 'node:fs/promises';
import type { DatabaseSync } from 'node:sqlite';
import { assert } from '../../base/assert.ts';
import { ignore } from '../../base/ignore.ts';
import { productName } from '../../base/package-dir.ts';
import { STAT_BLOCK_BYTES } from '../../base/units.ts';
import { cloneSparse, digestSparse } from '../../sys/sparse-threads.ts';
import { asStoreError, StoreError } from './errors.ts';
import { type StoreParts, sweep } from './parts.ts';
import { keepBaseOf, putSandbox, type SandboxRow } from './sandbox-table.ts';
import { digestOf, type NewSnapshot, type PerFile, rolesOf, type SnapshotPaths, type SnapshotRow } from './snapshot.ts';

export interface Staging extends AsyncDisposable {
  /** Paths of files to write, in a private directory on the store's file system. */
  readonly paths: Required<SnapshotPaths>;
  /** Runs `work`, which writes the files. A failure discards them; a full disk is `disk_full`. */
  write(work: (paths: Required<SnapshotPaths>) => Promise<void>): Promise<void>;
  /**
   * Makes sure that the store keeps the base of a difference, until `discard` or until a row needs it. A failure
   * discards all files.
   * @param copy writes the base; called only if it is missing or damaged, and no other save of this process writes it
   */
  keepBase(digest: string, copy: (to: string) => Promise<void>): Promise<void>;
  /**
   * Digests and syncs the finished files early, so that `commit` need not. Does not throw: `commit` of the same
   * snapshot then fails.
   */
  prepare(snapshot: NewSnapshot): Promise<void>;
  /**
   * Commits once. On failure nothing is kept.
   * @param paused the paused sandbox's row, written in the same transaction; present if and only if the kind is `pause`
   * @throws StoreError `name_taken`, `disk_full`; `snapshot_damaged` if the state is not what the VMM wrote
   */
  commit(snapshot: NewSnapshot, paused?: SandboxRow): Promise<SnapshotRow>;
  /** Idempotent; does nothing after `commit`. */
  discard(): Promise<void>;
}

interface Digested {
  readonly files: PerFile;
  readonly bytes: number;
  readonly baseBytes: number;
}

export async function newStaging(parts: StoreParts): Promise<Staging> {
  const { dir, files } = parts;
  let stagingDir: string;
  try {
    stagingDir = await files.newStagingDir();
  } catch (error) {
    throw asStoreError(error, 'prepare a snapshot', dir);
  }
  const paths = {
    ram: `${stagingDir}/ram`,
    difference: `${stagingDir}/difference`,
    base: `${stagingDir}/base`,
    state: `${stagingDir}/state`,
    disk: `${stagingDir}/disk`,
    environment: `${stagingDir}/environment`,
  };
  let base: KeptBase | undefined;
  let prepared: { readonly id: string; readonly digested: Promise<Digested> } | undefined;
  const discard = async (): Promise<void> => {
    const kept = base;
    base = undefined;
    if (kept !== undefined) parts.copies.forget(kept.digest, paths.base);
    await kept?.file?.close();
    await files.discard(stagingDir);
    await files.emptyTrash();
  };
  const orDiscard = async <T>(attempted: string, work: () => Promise<T>): Promise<T> => {
    try {
      return await work();
    } catch (error) {
      await discard().catch((also: unknown) => ignore(also, 'removed when the store is closed'));
      throw asStoreError(error, attempted, dir);
    }
  };
  return {
    paths,
    write: (work) => orDiscard('write a snapshot', () => work(paths)),
    keepBase: (digest, copy) =>
      orDiscard('keep the RAM that a snapshot needs', async () => {
        let isThere = false;
        while (!isThere) {
          const file = await openBase(parts, digest);
          base = { digest, file };
          isThere = file !== null || (await parts.copies.write(digest, paths.base, copy));
        }
      }),
    prepare: async (snapshot) => {
      const digested = digestAll(paths, snapshot, base);
      prepared = { id: snapshot.id, digested };
      await digested.catch((error: unknown) => ignore(error, 'reported by the commit'));
    },
    commit: async (snapshot, paused) => {
      const row = await orDiscard(`keep snapshot ${snapshot.id}`, () => {
        assert((prepared?.id ?? snapshot.id) === snapshot.id, 'another snapshot was prepared');
        const digest = () => prepared?.digested ?? digestAll(paths, snapshot, base);
        return keep(parts, paths, { snapshot, paused, base, digest });
      });
      await discard();
      return row;
    },
    discard,
    [Symbol.asyncDispose]: discard,
  };
}

interface KeptBase {
  readonly digest: string;
  /** The store's file, complete when it was opened; `null` if it was written into the staging directory. */
  readonly file: FileHandle | null;
}

/** `null` if the base is missing or damaged. */
async function openBase({ files, whole }: StoreParts, digest: string): Promise<FileHandle | null> {
  let file: FileHandle | undefined;
  try {
    file = await open(files.pathOf(digest), 'r');
    if (await whole.isWhole(digest, file)) return file;
  } catch (error) {
    ignore(error, 'it is written again');
  }
  await file?.close();
  return null;
}

async function keep(
  parts: StoreParts,
  paths: Required<SnapshotPaths>,
  what: {
    readonly snapshot: NewSnapshot;
    readonly paused: SandboxRow | undefined;
    readonly base: KeptBase | undefined;
    digest(): Promise<Digested>;
  },
): Promise<SnapshotRow> {
  const { db, files, lock, clock, sealing, whole } = parts;
  const { snapshot, paused } = what;
  const isPause = paused?.pausedSnapshotId === snapshot.id;
  assert((snapshot.kind === 'pause') === isPause, 'a pause and its sandbox come together');
  const base = neededBase(snapshot, what.base);
  assert(snapshot.base === base?.digest, 'a snapshot names the base that was kept for it');
  await db.read('check the name', (sql) => requireFreeName(sql, snapshot.name));
  const digested = await what.digest();
  const row = { ...snapshot, ...digested, madeBy: productName(), createdAtMs: Math.floor(clock.wall()) };
  const { environment } = digested.files;
  const staged = new Map<string, string>();
  for (const role of rolesOf(snapshot)) staged.set(digested.files[role] ?? '', paths[role]);
  if (environment !== undefined) staged.set(environment, paths.environment);
  let orphans = 0;
  let isNewBase = base?.file === null;
  try {
    await lock.run(async () => {
      if (base !== undefined) {
        isNewBase ||= await copyIfSwept(parts, paths, base);
        if (isNewBase) staged.set(base.digest, paths.base);
      }
      await files.place(staged);
      if (base !== undefined && isNewBase) await whole.add(base.digest, files.pathOf(base.digest));
      orphans = await db.write(`keep snapshot ${row.id}`, (sql) => {
        insertSnapshot(sql, row);
        if (paused === undefined) return 0;
        return keepBaseOf(sql, paused.id, row.base) + putSandbox(sql, sealing, paused);
      });
    });
  } catch (error) {
    await sweep(parts).catch((also: unknown) => ignore(also, 'the next sweep removes the files'));
    throw error;
  }
  if (base !== undefined) parts.recent.note(base.digest);
  if (orphans > 0) await sweep(parts);
  await db.sync();
  return row;
}

/** A save without memory, or with all of it, may follow an attempt with a base. */
const neededBase = (snapshot: NewSnapshot, base: KeptBase | undefined): KeptBase | undefined =>
  snapshot.base === undefined ? undefined : base;

/** Verifies a written base. @returns its space */
async function bytesOfBase(paths: Required<SnapshotPaths>, base: KeptBase | undefined): Promise<number> {
  if (base === undefined) return 0;
  if (base.file !== null) return (await base.file.stat()).blocks * STAT_BLOCK_BYTES;
  await using file = await open(paths.base, 'r');
  await file.chmod(0o600);
  if ((await digestSparse(paths.base)) !== base.digest) {
    throw new StoreError('snapshot_damaged', 'the RAM that a snapshot needs was not written as it is');
  }
  await file.datasync();
  return (await file.stat()).blocks * STAT_BLOCK_BYTES;
}

/** The last snapshot that needed the base may have been removed since it was opened. Call under the store's lock. */
async function copyIfSwept(
  { files }: StoreParts,
  paths: Required<SnapshotPaths>,
  { digest, file }: KeptBase,
): Promise<boolean> {
  if (file === null) return false;
  const found = await stat(files.pathOf(digest)).catch((error: unknown) => {
    ignore(error, 'it was removed');
    return null;
  });
  if (found !== null) return false;
  await cloneSparse(`/proc/self/fd/${file.fd}`, paths.base);
  await bytesOfBase(paths, { digest, file: null });
  return true;
}

async function digestAll(
  paths: Required<SnapshotPaths>,
  snapshot: NewSnapshot,
  base: KeptBase | undefined,
): Promise<Digested> {
  const files: { -readonly [K in keyof PerFile]: PerFile[K] } = { disk: '' };
  let bytes = 0;
  for (const role of rolesOf(snapshot)) {
    await using file = await open(paths[role], 'r');
    // Not read-only: a reflink copy inherits the mode, and a copied disk is written.
    await file.chmod(0o600);
    files[role] = await digestOf(role, paths[role]);
    await file.datasync();
    // Blocks are allocated for certain only after the sync.
    bytes += (await file.stat()).blocks * STAT_BLOCK_BYTES;
  }
  const { environment } = snapshot;
  // The digest is known since the file was made; it is not read again.
  const more = {
    ...(environment === undefined ? {} : { environment: environment.slice('sha256:'.length) }),
    ...(snapshot.base === undefined ? {} : { base: snapshot.base }),
  };
  if (environment !== undefined) {
    await using file = await open(paths.environment, 'r');
    await file.datasync();
    const { nlink, blocks } = await file.stat();
    // While the image has the file, its space counts for the image.
    if (nlink === 1) bytes += blocks * STAT_BLOCK_BYTES;
  }
  // The VMM's driver compares what was decrypted.
  if (snapshot.sealedBy == null && (files.state ?? null) !== snapshot.stateSha256) {
    const subject = `keep snapshot ${snapshot.id}`;
    throw new StoreError('snapshot_damaged', `${subject}: its state is not what the VMM wrote`);
  }
  const baseBytes = await bytesOfBase(paths, neededBase(snapshot, base));
  return { files: { ...files, ...more }, bytes, baseBytes };
}

function insertSnapshot(sql: DatabaseSync, row: SnapshotRow): void {
  const { files, environment: _inFiles, base: _too, stateSha256, ...columns } = row;
  requireFreeName(sql, row.name);
  sql
    .prepare(
      `INSERT INTO snapshots (id, name, kind, sandboxId, specJson, machine, stateSha256, kernelDigest,
                              rootImageDigest, madeBy, sealedBy, createdAtMs, bytes, baseBytes)
       VALUES (:id, :name, :kind, :sandboxId, :specJson, :machine, :stateSha256, :kernelDigest,
               :rootImageDigest, :madeBy, :sealedBy, :createdAtMs, :bytes, :baseBytes)`,
    )
    .run({ ...columns, stateSha256: stateSha256 ?? '', sealedBy: columns.sealedBy ?? null });
  const insertFile = sql.prepare('INSERT INTO snapshotFiles (snapshotId, role, digest) VALUES (?, ?, ?)');
  for (const [role, digest] of Object.entries(files)) insertFile.run(row.id, role, digest);
}

/** Refuses a name that is taken or equals an id, since ids are looked up first. */
function requireFreeName(sql: DatabaseSync, name: string | null): void {
  const taken = sql.prepare('SELECT 1 FROM snapshots WHERE name = :name OR id = :name').get({ name });
  if (taken === undefined) return;
  throw new StoreError('name_taken', `a snapshot named "${name}" exists`, {
    remedy: 'Choose another name, or remove the snapshot.',
  });
}
