import { DatabaseSync } from 'node:sqlite';
import { describe, expect, it } from 'vitest';
import { MIGRATIONS, type Migration, migrate } from './schema.ts';

/** A database as version 1 wrote it. Never change it: it stands for existing ones. */
const VERSION_1 = `
  PRAGMA application_id = 1314288500;
  CREATE TABLE snapshots (
    id TEXT PRIMARY KEY NOT NULL, name TEXT UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('snapshot', 'pause')),
    sandboxId TEXT NOT NULL, specJson TEXT NOT NULL CHECK (json_valid(specJson)), machine TEXT NOT NULL,
    stateSha256 TEXT NOT NULL, kernelDigest TEXT NOT NULL, rootImageDigest TEXT NOT NULL,
    createdAtMs INTEGER NOT NULL, bytes INTEGER NOT NULL
  ) STRICT;
  CREATE TABLE snapshotFiles (
    snapshotId TEXT NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    role TEXT NOT NULL CHECK (role IN ('ram', 'state', 'disk')), digest TEXT NOT NULL,
    PRIMARY KEY (snapshotId, role)
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE sandboxes (
    id TEXT PRIMARY KEY NOT NULL, ownerJson TEXT CHECK (json_valid(ownerJson)),
    status TEXT NOT NULL CHECK (status IN ('running', 'paused', 'ended')),
    requestJson TEXT NOT NULL CHECK (json_valid(requestJson)),
    metadataJson TEXT NOT NULL CHECK (json_valid(metadataJson)),
    createdAtMs INTEGER NOT NULL, endsAtMs INTEGER,
    pausedSnapshotId TEXT REFERENCES snapshots (id) CHECK (pausedSnapshotId IS NULL OR status = 'paused'),
    parent TEXT, snapshot TEXT, endJson TEXT CHECK (json_valid(endJson)),
    CHECK ((status = 'ended') = (endJson IS NOT NULL))
  ) STRICT;
  CREATE INDEX sandboxesByPause ON sandboxes (pausedSnapshotId) WHERE pausedSnapshotId IS NOT NULL;
  INSERT INTO snapshots VALUES ('s1', 'mine', 'snapshot', 'b1', '{}', 'm', 'd2', 'k', 'r', 1, 4096);
  INSERT INTO snapshots VALUES ('s2', NULL, 'pause', 'b1', '{}', 'm', 'd2', 'k', 'r', 2, 4096);
  INSERT INTO snapshotFiles VALUES ('s1', 'ram', 'd1'), ('s1', 'state', 'd2'), ('s1', 'disk', 'd3'),
                                   ('s2', 'ram', 'd1'), ('s2', 'state', 'd2'), ('s2', 'disk', 'd3');
  INSERT INTO sandboxes VALUES ('b1', NULL, 'paused', '{}', '{}', 1, NULL, 's2', NULL, 's1', NULL);
  PRAGMA user_version = 1;
`;

const TABLES = ['snapshots', 'snapshotFiles', 'sandboxes'];

function database(text = ''): DatabaseSync {
  const db = new DatabaseSync(':memory:');
  db.exec(text);
  return db;
}

const rows = (db: DatabaseSync) =>
  TABLES.map((table) =>
    db
      .prepare(`SELECT * FROM ${table}`)
      .all()
      .map((row) => ({ ...row })),
  );
const version = (db: DatabaseSync): unknown => db.prepare('PRAGMA user_version').get()?.['user_version'];
/** Table → column names with types. */
const shape = (db: DatabaseSync) =>
  TABLES.map((table) => db.prepare(`SELECT name, type, "notnull", pk FROM pragma_table_info('${table}')`).all());

describe('migrate', () => {
  it('a new database: all tables, the newest version', () => {
    const db = database();
    migrate(db, 'dir');
    expect(version(db)).toBe(MIGRATIONS.length);
    expect(rows(db)).toEqual([[], [], []]);
    migrate(db, 'dir');
    expect(version(db)).toBe(MIGRATIONS.length);
  });

  it('a database of version 1: keeps its rows and gets the schema of a new one', () => {
    const old = database(VERSION_1);
    const before = rows(old);
    expect(before.flat()).toHaveLength(9);
    migrate(old, 'dir');
    expect(rows(old)).toMatchObject(before);
    const fresh = database();
    migrate(fresh, 'dir');
    expect(shape(old)).toEqual(shape(fresh));
    expect(old.prepare('PRAGMA foreign_key_check').all()).toEqual([]);
  });

  const addColumn: Migration = (db) => db.exec("ALTER TABLE snapshotFiles ADD label TEXT DEFAULT 'none'");

  it('applies only the missing migrations, in order', () => {
    const db = database(VERSION_1);
    const third: Migration = (sql) => sql.exec('ALTER TABLE snapshotFiles RENAME label TO title');
    migrate(db, 'dir', [...MIGRATIONS.slice(0, 1), addColumn, third]);
    expect(version(db)).toBe(3);
    expect(db.prepare('SELECT digest, role, title FROM snapshotFiles').get()).toEqual({
      digest: 'd3',
      role: 'disk',
      title: 'none',
    });
  });

  it('a failed migration: leaves the database unchanged', () => {
    const db = database(VERSION_1);
    const before = rows(db);
    db.exec('BEGIN IMMEDIATE');
    const fails: Migration = () => {
      throw new Error('no');
    };
    expect(() => migrate(db, 'dir', [...MIGRATIONS.slice(0, 1), addColumn, fails])).toThrow('no');
    db.exec('ROLLBACK');
    expect(version(db)).toBe(1);
    expect(rows(db)).toEqual(before);
  });

  it('a newer database: store_newer with a remedy, unchanged', () => {
    const db = database(VERSION_1);
    db.exec('ALTER TABLE snapshots ADD region TEXT; PRAGMA user_version = 99');
    expect(() => migrate(db, 'dir')).toThrow(
      expect.objectContaining({ code: 'store_newer', remedy: expect.stringContaining('newer') }),
    );
    expect(version(db)).toBe(99);
  });

  it('another program’s database: store_damaged, unchanged', () => {
    const db = database('CREATE TABLE a (b TEXT)');
    expect(() => migrate(db, 'dir')).toThrow(expect.objectContaining({ code: 'store_damaged' }));
    expect(version(db)).toBe(0);
  });
});
