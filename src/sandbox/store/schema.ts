/**
 * The tables, and the migrations of older databases.
 *
 *     sandboxes ──pausedSnapshotId──► snapshots ◄──snapshotId── snapshotFiles ──digest──► files/<digest>
 *         ▲
 *         ├──sandboxId── endLogs
 *         ├──sandboxId── sandboxBases ──digest──► files/<digest>
 *         └──sandboxId── sandboxVolumes ──name──► volumes ──id──► volumes/<id>
 *
 * The reference count of a file is never stored, since a stored count can drift: it is the number of rows that name its
 * digest. Columns have the names of the row types' fields, so no mapping is needed.
 */
import type { DatabaseSync } from 'node:sqlite';
import { damaged, StoreError } from './errors.ts';

/** Migrates a database from version `index` to `index + 1`, in a transaction. Only add migrations, never change one. */
export type Migration = (db: DatabaseSync) => void;

export const MIGRATIONS: readonly Migration[] = [
  (db) =>
    db.exec(`
      CREATE TABLE snapshots (
        id TEXT PRIMARY KEY NOT NULL,
        name TEXT UNIQUE,
        kind TEXT NOT NULL CHECK (kind IN ('snapshot', 'pause')),
        sandboxId TEXT NOT NULL,
        specJson TEXT NOT NULL CHECK (json_valid(specJson)),
        machine TEXT NOT NULL,
        stateSha256 TEXT NOT NULL,
        kernelDigest TEXT NOT NULL,
        rootImageDigest TEXT NOT NULL,
        createdAtMs INTEGER NOT NULL,
        bytes INTEGER NOT NULL
      ) STRICT;
      CREATE TABLE snapshotFiles (
        snapshotId TEXT NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
        role TEXT NOT NULL CHECK (role IN ('ram', 'state', 'disk')),
        digest TEXT NOT NULL,
        PRIMARY KEY (snapshotId, role)
      ) STRICT, WITHOUT ROWID;
      CREATE TABLE sandboxes (
        id TEXT PRIMARY KEY NOT NULL,
        ownerJson TEXT CHECK (json_valid(ownerJson)),
        status TEXT NOT NULL CHECK (status IN ('running', 'paused', 'ended')),
        requestJson TEXT NOT NULL CHECK (json_valid(requestJson)),
        metadataJson TEXT NOT NULL CHECK (json_valid(metadataJson)),
        createdAtMs INTEGER NOT NULL,
        endsAtMs INTEGER,
        pausedSnapshotId TEXT REFERENCES snapshots (id) CHECK (pausedSnapshotId IS NULL OR status = 'paused'),
        parent TEXT,
        snapshot TEXT,
        endJson TEXT CHECK (json_valid(endJson)),
        CHECK ((status = 'ended') = (endJson IS NOT NULL))
      ) STRICT;
      CREATE INDEX sandboxesByPause ON sandboxes (pausedSnapshotId) WHERE pausedSnapshotId IS NOT NULL;
    `),
  (db) =>
    db.exec(`
      CREATE TABLE endLogs (
        sandboxId TEXT PRIMARY KEY NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
        console BLOB NOT NULL,
        vmm BLOB NOT NULL
      ) STRICT;
    `),
  // SQLite can't change a CHECK, so the table is recreated.
  (db) =>
    db.exec(`
      ALTER TABLE snapshotFiles RENAME TO oldSnapshotFiles;
      CREATE TABLE snapshotFiles (
        snapshotId TEXT NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
        role TEXT NOT NULL CHECK (role IN ('ram', 'state', 'disk', 'environment')),
        digest TEXT NOT NULL,
        PRIMARY KEY (snapshotId, role)
      ) STRICT, WITHOUT ROWID;
      INSERT INTO snapshotFiles SELECT snapshotId, role, digest FROM oldSnapshotFiles;
      DROP TABLE oldSnapshotFiles;
    `),
  // Disk-only snapshots have an empty `stateSha256`; an older program would take them for damaged.
  () => undefined,
  // Snapshots that need another one's RAM.
  (db) =>
    db.exec(`
      ALTER TABLE snapshots ADD COLUMN baseBytes INTEGER NOT NULL DEFAULT 0;
      ALTER TABLE snapshotFiles RENAME TO oldSnapshotFiles;
      CREATE TABLE snapshotFiles (
        snapshotId TEXT NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
        role TEXT NOT NULL CHECK (role IN ('ram', 'difference', 'base', 'state', 'disk', 'environment')),
        digest TEXT NOT NULL,
        PRIMARY KEY (snapshotId, role)
      ) STRICT, WITHOUT ROWID;
      INSERT INTO snapshotFiles SELECT snapshotId, role, digest FROM oldSnapshotFiles;
      DROP TABLE oldSnapshotFiles;
      CREATE TABLE sandboxBases (
        sandboxId TEXT PRIMARY KEY NOT NULL,
        digest TEXT NOT NULL
      ) STRICT, WITHOUT ROWID;
    `),
  (db) => db.exec('ALTER TABLE snapshots ADD COLUMN madeBy TEXT'),
  // Id of the key that encrypts its files; NULL: none.
  (db) => db.exec('ALTER TABLE snapshots ADD COLUMN sealedBy TEXT'),
  // Columns behind `requestJson` lie on pages of their own: reading one of each row takes the event loop.
  (db) => db.exec("CREATE INDEX sandboxesByEnd ON sandboxes (endJson ->> '$.atMs') WHERE status = 'ended'"),
  // Names are without a reference: a run keeps its sandbox in a store of its own.
  (db) =>
    db.exec(`
      CREATE TABLE volumes (
        id TEXT PRIMARY KEY NOT NULL,
        name TEXT UNIQUE NOT NULL,
        annotationsJson TEXT NOT NULL CHECK (json_valid(annotationsJson)),
        sizeMib INTEGER NOT NULL,
        createdAtMs INTEGER NOT NULL
      ) STRICT;
      CREATE TABLE sandboxVolumes (
        sandboxId TEXT NOT NULL,
        name TEXT NOT NULL,
        readOnly INTEGER NOT NULL,
        PRIMARY KEY (sandboxId, name)
      ) STRICT, WITHOUT ROWID;
    `),
  // Sandboxes name them in their requests.
  (db) =>
    db.exec(`
      CREATE TABLE secrets (
        name TEXT PRIMARY KEY NOT NULL,
        valueJson TEXT NOT NULL CHECK (json_valid(valueJson)),
        createdAtMs INTEGER NOT NULL,
        updatedAtMs INTEGER NOT NULL
      ) STRICT, WITHOUT ROWID;
    `),
];

/** "NVst", which identifies our databases (sqlite.org/fileformat.html, 1.3.18). */
const APPLICATION_ID = 0x4e567374;

/**
 * Applies the missing migrations. Call in a write transaction.
 * @throws StoreError `store_newer`, `store_damaged`
 */
export function migrate(db: DatabaseSync, dir: string, migrations: readonly Migration[] = MIGRATIONS): void {
  const version = pragma(db, 'user_version');
  if (version === 0 && pragma(db, 'schema_version') === 0) {
    db.exec(`PRAGMA application_id = ${APPLICATION_ID}`);
  } else if (pragma(db, 'application_id') !== APPLICATION_ID) {
    throw damaged('open the store: the database belongs to another program', dir);
  }
  if (version > migrations.length) {
    throw new StoreError(
      'store_newer',
      `open the store in ${dir}: its format ${version} is newer than ${migrations.length}, the newest known`,
      { remedy: 'Use the newer NeuroVisor, or set NEUROVISOR_HOME to another directory.' },
    );
  }
  for (const step of migrations.slice(version)) step(db);
  if (version < migrations.length) db.exec(`PRAGMA user_version = ${migrations.length}`);
}

function pragma(db: DatabaseSync, name: string): number {
  return Number(db.prepare(`PRAGMA ${name}`).get()?.[name]);
}
