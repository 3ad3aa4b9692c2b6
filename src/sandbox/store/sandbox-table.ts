/** Rows of sandboxes; they outlive the process that holds the sandbox. */
import type { DatabaseSync } from 'node:sqlite';
import { z } from 'zod';
import { StoreError } from './errors.ts';
import { END_LOG_BYTES_MAX, END_LOGS_MAX, ENDED_SANDBOXES_MAX } from './limits.ts';
import { type StoreParts, sweep } from './parts.ts';
import { parseRow } from './row.ts';
import type { Sealing } from './sealing.ts';
import type { AttachedVolume } from './volume-table.ts';

/** `paused` with a `pausedSnapshotId`: on disk; without: in memory of the owner's VMM. */
export type SandboxRowStatus = 'running' | 'paused' | 'ended';

export interface SandboxRow {
  readonly id: string;
  /** The owning process, as the caller's JSON. */
  readonly ownerJson: string | null;
  readonly status: SandboxRowStatus;
  /**
   * The request, as the caller's JSON. May hold the user's secrets, so the database has it sealed. `null` (JSON) if its
   * key is lost.
   */
  readonly requestJson: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly createdAtMs: number;
  readonly endsAtMs: number | null;
  /** Set only while paused. */
  readonly pausedSnapshotId: string | null;
  /** Ids of the sandbox it was forked from and of the snapshot it was created from; either may have been removed. */
  readonly parent: string | null;
  readonly snapshot: string | null;
  /** Present if and only if the sandbox has ended. */
  readonly end: SandboxRowEnd | null;
  /** Logs of an ended sandbox. Written with the row, but read only by `log`, since they are long. */
  readonly log?: EndLog | undefined;
  /** Volumes that it has until it ends. Written with the row, and not read; omitted: they stay as they are. */
  readonly volumes?: readonly AttachedVolume[];
}

export type Pause = { readonly [key in 'id' | 'pausedSnapshotId']: string };

export interface SandboxRowEnd {
  readonly cause: string;
  readonly detail: string;
  readonly atMs: number;
  /** The caller's JSON; omitted in rows of version 1. */
  readonly evidence?: unknown;
}

/** Logs of an ended sandbox: the last `END_LOG_BYTES_MAX` bytes of each. */
export interface EndLog {
  readonly console: Buffer;
  readonly vmm: Buffer;
}

export interface SandboxTable {
  /**
   * Inserts or replaces a row. Removes the pause's snapshot that the row no longer names, and the oldest ended
   * sandboxes beyond the limit.
   * @throws StoreError `not_found` for `pausedSnapshotId`; `disk_full`
   */
  put(row: SandboxRow): Promise<void>;
  /** Changes the owner if it is still `from`. @returns false if it has another owner or does not exist */
  claim(id: string, from: string | null, to: string | null): Promise<boolean>;
  /** @throws StoreError `not_found` */
  get(id: string): Promise<SandboxRow>;
  /** Newest first. */
  list(status?: SandboxRowStatus): Promise<readonly SandboxRow[]>;
  /** The pauses on disk. Unseals nothing. */
  pauses(): Promise<readonly Pause[]>;
  /** Ids of the sandboxes that ended last. Unseals nothing. */
  ended(most: number): Promise<readonly string[]>;
  /** Returns `null` if there is no log, or it is no longer kept. */
  log(id: string): Promise<EndLog | null>;
  /** Removes the row and its pause's snapshot. @throws StoreError `not_found` */
  remove(id: string): Promise<void>;
}

const count = z.number().int();
const rowSchema = z.object({
  id: z.string(),
  ownerJson: z.string().nullable(),
  status: z.enum(['running', 'paused', 'ended']),
  requestJson: z.string(),
  metadataJson: z.string(),
  createdAtMs: count,
  endsAtMs: count.nullable(),
  pausedSnapshotId: z.string().nullable(),
  parent: z.string().nullable(),
  snapshot: z.string().nullable(),
  endJson: z.string().nullable(),
});
const pausesSchema = z.array(rowSchema.pick({ id: true }).extend({ pausedSnapshotId: z.string() }));
const metadataSchema = z.record(z.string(), z.string());
const endSchema = z.object({ cause: z.string(), detail: z.string(), atMs: count, evidence: z.unknown().optional() });
const logSchema = z.object({ console: z.instanceof(Uint8Array), vmm: z.instanceof(Uint8Array) });

/** By an index of the schema, which must have the same terms. */
const NEWEST_ENDED = "WHERE status = 'ended' ORDER BY endJson ->> '$.atMs' DESC, rowid DESC";

export function sandboxTable(parts: StoreParts): SandboxTable {
  const { db, dir, sealing } = parts;
  const fromRow = (row: unknown): SandboxRow =>
    parseRow(dir, 'a sandbox', () => {
      const { metadataJson, endJson, ...rest } = rowSchema.parse(row);
      const end = endJson === null ? null : endSchema.parse(JSON.parse(endJson));
      const requestJson = sealing.unseal(rest.requestJson, rest.id) ?? 'null';
      return { ...rest, requestJson, metadata: metadataSchema.parse(JSON.parse(metadataJson)), end };
    });
  return {
    async put(row) {
      const orphans = await db.write(`keep sandbox ${row.id}`, (sql) => putSandbox(sql, sealing, row));
      if (orphans > 0) await sweep(parts);
    },
    claim: (id, from, to) =>
      db.write(`claim sandbox ${id}`, (sql) => {
        const claim = sql.prepare('UPDATE sandboxes SET ownerJson = :to WHERE id = :id AND ownerJson IS :from');
        return claim.run({ id, from, to }).changes === 1;
      }),
    async get(id) {
      const row = await db.read(`read sandbox ${id}`, (sql) =>
        sql.prepare('SELECT * FROM sandboxes WHERE id = ?').get(id),
      );
      if (row === undefined) throw new StoreError('not_found', `no sandbox ${id}`);
      return fromRow(row);
    },
    async list(status) {
      const rows = await db.read('list sandboxes', (sql) =>
        sql
          .prepare(
            `SELECT * FROM sandboxes WHERE :status IS NULL OR status = :status
             ORDER BY createdAtMs DESC, rowid DESC`,
          )
          .all({ status: status ?? null }),
      );
      return rows.map(fromRow);
    },
    async pauses() {
      const rows = await db.read('list pauses', (sql) =>
        sql
          .prepare(
            `SELECT id, pausedSnapshotId FROM sandboxes INDEXED BY sandboxesByPause
             WHERE pausedSnapshotId IS NOT NULL AND status = 'paused' ORDER BY rowid DESC`,
          )
          .all(),
      );
      return parseRow(dir, 'a pause', () => pausesSchema.parse(rows));
    },
    async ended(most) {
      const rows = await db.read('list ended sandboxes', (sql) =>
        sql.prepare(`SELECT id FROM sandboxes ${NEWEST_ENDED} LIMIT ?`).all(most),
      );
      return rows.map(({ id }) => String(id));
    },
    async log(id) {
      const row = await db.read(`read the log of sandbox ${id}`, (sql) =>
        sql.prepare('SELECT console, vmm FROM endLogs WHERE sandboxId = ?').get(id),
      );
      if (row === undefined) return null;
      return parseRow(dir, 'a log', () => {
        const log = logSchema.parse(row);
        return { console: Buffer.from(log.console), vmm: Buffer.from(log.vmm) };
      });
    },
    async remove(id) {
      const orphans = await db.write(`remove sandbox ${id}`, (sql) => {
        const { changes } = sql.prepare('DELETE FROM sandboxes WHERE id = ?').run(id);
        if (changes === 0) throw new StoreError('not_found', `no sandbox ${id}`);
        return removeOrphans(sql);
      });
      if (orphans > 0) await sweep(parts);
    },
  };
}

/** Call in a write transaction. @returns nonzero if files may have become unneeded */
export function putSandbox(sql: DatabaseSync, sealing: Sealing, row: SandboxRow): number {
  const { metadata, end, log, volumes = [], ...columns } = row;
  const { pausedSnapshotId } = row;
  if (pausedSnapshotId !== null) {
    const known = sql.prepare('SELECT 1 FROM snapshots WHERE id = ?').get(pausedSnapshotId);
    if (known === undefined) throw new StoreError('not_found', `no snapshot ${pausedSnapshotId}`);
  }
  // The table can't check the JSON once it is sealed.
  JSON.parse(row.requestJson);
  sql
    .prepare(
      `INSERT INTO sandboxes (id, ownerJson, status, requestJson, metadataJson, createdAtMs, endsAtMs,
                              pausedSnapshotId, parent, snapshot, endJson)
       VALUES (:id, :ownerJson, :status, :requestJson, :metadataJson, :createdAtMs, :endsAtMs,
               :pausedSnapshotId, :parent, :snapshot, :endJson)
       ON CONFLICT (id) DO UPDATE SET
         ownerJson = excluded.ownerJson, status = excluded.status, requestJson = excluded.requestJson,
         metadataJson = excluded.metadataJson, createdAtMs = excluded.createdAtMs,
         endsAtMs = excluded.endsAtMs, pausedSnapshotId = excluded.pausedSnapshotId,
         parent = excluded.parent, snapshot = excluded.snapshot, endJson = excluded.endJson`,
    )
    .run({
      ...columns,
      requestJson: sealing.seal(row.requestJson, row.id),
      metadataJson: JSON.stringify(metadata),
      endJson: end === null ? null : JSON.stringify(end),
    });
  if (log !== undefined) putLog(sql, row.id, log);
  const attach = sql.prepare('INSERT OR IGNORE INTO sandboxVolumes (sandboxId, name, readOnly) VALUES (?, ?, ?)');
  for (const { name, readOnly = false } of volumes) attach.run(row.id, name, readOnly ? 1 : 0);
  if (end !== null) forgetOldest(sql);
  return removeOrphans(sql);
}

/**
 * Seals the plain requests of older rows, and erases the remains of removed ones.
 * @returns the number of rows sealed with another key
 */
export async function sealPlainRows({ db, sealing }: StoreParts): Promise<number> {
  const hasPlain = await db.read('read the requests', (sql) => plainRows(sql).length > 0);
  if (hasPlain) {
    await db.write('seal the requests', (sql) => {
      const seal = sql.prepare('UPDATE sandboxes SET requestJson = :json WHERE id = :id');
      for (const { id, requestJson } of plainRows(sql)) seal.run({ id, json: sealing.seal(requestJson, id) });
    });
  }
  if (hasPlain || sealing.isNew) await db.rewrite();
  const foreign = await db.read('count the requests', (sql) =>
    sql.prepare("SELECT count(*) AS count FROM sandboxes WHERE requestJson ->> '$.key' <> ?").get(sealing.keyId),
  );
  return Number(foreign?.['count'] ?? 0);
}

const plainSchema = z.array(z.object({ id: z.string(), requestJson: z.string() }));

function plainRows(sql: DatabaseSync): z.infer<typeof plainSchema> {
  const plain = "SELECT id, requestJson FROM sandboxes WHERE requestJson ->> '$.sealed' IS NULL";
  return plainSchema.parse(sql.prepare(plain).all());
}

function putLog(sql: DatabaseSync, id: string, log: EndLog): void {
  const tail = (bytes: Buffer): Buffer => bytes.subarray(-END_LOG_BYTES_MAX);
  sql
    .prepare('INSERT OR REPLACE INTO endLogs (sandboxId, console, vmm) VALUES (?, ?, ?)')
    .run(id, tail(log.console), tail(log.vmm));
  // A higher rowid is newer.
  sql
    .prepare(
      `DELETE FROM endLogs WHERE rowid NOT IN
         (SELECT rowid FROM endLogs ORDER BY rowid DESC LIMIT ?)`,
    )
    .run(END_LOGS_MAX);
}

function forgetOldest(sql: DatabaseSync): void {
  sql
    .prepare(
      `DELETE FROM sandboxes WHERE rowid IN
         (SELECT rowid FROM sandboxes ${NEWEST_ENDED} LIMIT -1 OFFSET ?)`,
    )
    .run(ENDED_SANDBOXES_MAX);
}

/**
 * Keeps a pause's base also while the sandbox runs: its next pause needs it again. Call in a write transaction.
 * @param digest undefined if the pause has no base
 * @returns nonzero if the previous base may have become unneeded
 */
export function keepBaseOf(sql: DatabaseSync, sandboxId: string, digest: string | undefined): number {
  const { changes } = sql
    .prepare('DELETE FROM sandboxBases WHERE sandboxId = ? AND digest IS NOT ?')
    .run(sandboxId, digest ?? null);
  if (digest !== undefined) {
    sql.prepare('INSERT OR IGNORE INTO sandboxBases (sandboxId, digest) VALUES (?, ?)').run(sandboxId, digest);
  }
  return Number(changes);
}

/** Removes snapshots of pauses that no sandbox names, and bases and claims to volumes of sandboxes that have ended. */
function removeOrphans(sql: DatabaseSync): number {
  const ended = "sandboxId NOT IN (SELECT id FROM sandboxes WHERE status <> 'ended')";
  const bases = sql.prepare(`DELETE FROM sandboxBases WHERE ${ended}`).run();
  sql.prepare(`DELETE FROM sandboxVolumes WHERE ${ended}`).run();
  const { changes } = sql
    .prepare(
      `DELETE FROM snapshots WHERE kind = 'pause' AND id NOT IN
         (SELECT pausedSnapshotId FROM sandboxes WHERE pausedSnapshotId IS NOT NULL)`,
    )
    .run();
  return Number(changes) + Number(bases.changes);
}
