/**
 * Volumes: disks that outlive sandboxes, one file each.
 *
 *     create   row ─► file, formatted under another name        remove   file ─► row
 *     open     file ─► flock: exclusive to write, shared to read ─► rows of sandboxes that have it
 *
 * A crash leaves at most a row without its file, which can be removed. The lock is that of the open file, so it ends with
 * its last copy, in the VMM; a paused sandbox has no file open, but its row names the volume. The host never mounts a
 * volume: a guest wrote it.
 */
import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { mkdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { ifThere } from '../../base/errors.ts';
import { newSandboxId } from '../../base/ids.ts';
import { MIB } from '../../base/units.ts';
import { tryLockExclusive, tryLockShared } from '../../sys/file.ts';
import { asStoreError, StoreError } from './errors.ts';
import type { StoreParts } from './parts.ts';
import { parseRow } from './row.ts';

/** How a sandbox has a volume. */
export interface AttachedVolume {
  readonly name: string;
  readonly readOnly?: boolean;
}

interface Use {
  readonly sandbox: string;
  readonly readOnly: boolean;
}

export interface NewVolume {
  readonly name: string;
  readonly annotations: Readonly<Record<string, string>>;
  readonly sizeMib: number;
}

export interface StoredVolume extends NewVolume {
  readonly id: string;
  /** Size on disk. */
  readonly bytes: number;
  readonly createdAtMs: number;
  /** Sandboxes of this store that have it and have not ended. */
  readonly attached: readonly Use[];
}

/** Another descriptor of an open file, which may have its lock; the caller closes both. */
export type SameFile = (fd: number) => number;

/** Makes the file with its file system. */
export type Format = (path: string, sizeBytes: number) => Promise<void>;

export interface OpenVolumes {
  /** In the order of the request. */
  readonly disks: readonly { readonly fd: number; readonly access: 'read' | 'write' }[];
  /** Call it once the VM has ended. Idempotent. */
  close(): void;
}

const rowSchema = z.object({
  id: z.string(),
  name: z.string(),
  annotationsJson: z.string(),
  sizeMib: z.number().int(),
  createdAtMs: z.number().int(),
});
type Row = z.infer<typeof rowSchema>;
const annotationsSchema = z.record(z.string(), z.string());
const usesSchema = z.array(z.object({ name: z.string(), sandboxId: z.string(), readOnly: z.number() }));

export class VolumeTable {
  readonly #parts: Pick<StoreParts, 'db' | 'dir' | 'clock'>;
  /** Open here; the row of a sandbox that starts is written later. */
  readonly #holders = new Set<Use & { readonly name: string }>();

  constructor(parts: Pick<StoreParts, 'db' | 'dir' | 'clock'>) {
    this.#parts = parts;
  }

  /** @throws StoreError `name_taken`, `disk_full`; errors of `format` */
  async create({ name, annotations, sizeMib }: NewVolume, format: Format): Promise<StoredVolume> {
    const { db, dir, clock } = this.#parts;
    const createdAtMs = Math.round(clock.wall());
    const row: Row = { id: newSandboxId(), name, annotationsJson: JSON.stringify(annotations), sizeMib, createdAtMs };
    await db.write(`create volume ${name}`, (sql) => {
      const insert = sql.prepare(
        `INSERT OR IGNORE INTO volumes (id, name, annotationsJson, sizeMib, createdAtMs)
         VALUES (:id, :name, :annotationsJson, :sizeMib, :createdAtMs)`,
      );
      if (insert.run({ ...row }).changes === 1) return;
      throw new StoreError('name_taken', `there is a volume "${name}" already`, {
        remedy: 'choose another name, or remove that volume',
      });
    });
    const path = this.#pathOf(row);
    try {
      await mkdir(join(dir, 'volumes'), { recursive: true, mode: 0o700 });
      await format(unfinished(path), sizeMib * MIB);
      await rename(unfinished(path), path);
    } catch (error) {
      await rm(unfinished(path), { force: true });
      await this.#forget(row);
      throw asStoreError(error, `create volume ${name}`, dir);
    }
    return await this.#stored(row, []);
  }

  /** By name. */
  async list(): Promise<readonly StoredVolume[]> {
    const { db, dir } = this.#parts;
    const rows = await db.read('list volumes', (sql) => sql.prepare('SELECT * FROM volumes ORDER BY name').all());
    const parsed = parseRow(dir, 'a volume', () => z.array(rowSchema).parse(rows));
    const attached = await this.#uses();
    return await Promise.all(parsed.map((row) => this.#stored(row, attached.get(row.name) ?? [])));
  }

  /** @throws StoreError `not_found`, `in_use` */
  async remove(idOrName: string): Promise<void> {
    const row = await this.#find(idOrName, 'name = :it OR id = :it ORDER BY id = :it DESC');
    const fd = await this.#lock(row, false);
    try {
      const path = this.#pathOf(row);
      for (const file of [path, unfinished(path)]) await rm(file, { force: true });
      await this.#forget(row);
    } finally {
      if (fd !== null) closeSync(fd);
    }
  }

  /**
   * Opens and locks all, or none.
   * @param kept for a VM that outlived its owner: the descriptor of its VMM, which has the lock
   * @throws StoreError `not_found`, `in_use`; errors of `kept`
   */
  async open(sandboxId: string, volumes: readonly AttachedVolume[], kept?: SameFile): Promise<OpenVolumes> {
    const opened: { readonly fd: number; readonly holder: Use & { readonly name: string } }[] = [];
    const close = (): void => {
      for (const { fd, holder } of opened.splice(0)) {
        closeSync(fd);
        this.#holders.delete(holder);
      }
    };
    const disks: OpenVolumes['disks'][number][] = [];
    try {
      for (const { name, readOnly = false } of volumes) {
        const fd = await this.#lock(await this.#find(name), readOnly, sandboxId, kept);
        if (fd === null) throw noVolume(name);
        const holder = { name, sandbox: sandboxId, readOnly };
        this.#holders.add(holder);
        opened.push({ fd, holder });
        disks.push({ fd, access: readOnly ? 'read' : 'write' });
      }
    } catch (error) {
      close();
      throw error;
    }
    return { disks, close };
  }

  #pathOf({ id }: Pick<Row, 'id'>): string {
    return join(this.#parts.dir, 'volumes', id);
  }

  async #find(it: string, where = 'name = :it'): Promise<Row> {
    const { db, dir } = this.#parts;
    const row = await db.read(`read volume ${it}`, (sql) =>
      sql.prepare(`SELECT * FROM volumes WHERE ${where}`).get({ it }),
    );
    if (row === undefined) throw noVolume(it);
    return parseRow(dir, 'a volume', () => rowSchema.parse(row));
  }

  async #forget({ id, name }: Row): Promise<void> {
    const { db } = this.#parts;
    await db.write(`forget volume ${name}`, (sql) => sql.prepare('DELETE FROM volumes WHERE id = ?').run(id));
  }

  /** By the volume's name. */
  async #uses(): Promise<ReadonlyMap<string, readonly Use[]>> {
    const { db, dir } = this.#parts;
    const rows = await db.read('read the uses of volumes', (sql) =>
      sql.prepare('SELECT name, sandboxId, readOnly FROM sandboxVolumes ORDER BY sandboxId').all(),
    );
    const parsed = parseRow(dir, 'the use of a volume', () => usesSchema.parse(rows));
    const uses = parsed.map((use) => [use.name, { sandbox: use.sandboxId, readOnly: use.readOnly !== 0 }] as const);
    const byName = Map.groupBy(uses, ([name]) => name);
    return new Map([...byName].map(([name, all]) => [name, all.map(([, use]) => use)]));
  }

  /**
   * @param sandboxId the one that may have it already
   * @returns null: it was removed, or its file was never finished
   * @throws StoreError `in_use`
   */
  async #lock(row: Row, readOnly: boolean, sandboxId?: string, kept?: SameFile): Promise<number | null> {
    const flags = (readOnly ? constants.O_RDONLY : constants.O_RDWR) | constants.O_NOFOLLOW;
    const opened = await ifThere((async () => openSync(this.#pathOf(row), flags))());
    if (opened === undefined) return null;
    let fd = opened;
    try {
      if (kept !== undefined) {
        fd = kept(opened);
        closeSync(opened);
      }
      const here = [...this.#holders].filter(({ name }) => name === row.name);
      const all = [...((await this.#uses()).get(row.name) ?? []), ...here];
      const others = all.filter(({ sandbox }) => sandbox !== sandboxId);
      const holder = others.find((other) => !(readOnly && other.readOnly));
      if (holder !== undefined || !(readOnly ? tryLockShared(fd) : tryLockExclusive(fd))) {
        throw inUse(row.name, holder ?? others[0]);
      }
      // It may have been removed before the lock.
      if (fstatSync(fd).nlink > 0) return fd;
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    closeSync(fd);
    return null;
  }

  async #stored(row: Row, attached: readonly Use[]): Promise<StoredVolume> {
    const { annotationsJson, ...rest } = row;
    const file = await ifThere(stat(this.#pathOf(row)));
    const parse = () => annotationsSchema.parse(JSON.parse(annotationsJson));
    const annotations = parseRow(this.#parts.dir, 'a volume', parse);
    return { ...rest, annotations, bytes: (file?.blocks ?? 0) * BLOCK_BYTES, attached };
  }
}

/** Unit of `st_blocks` (stat(2)). */
const BLOCK_BYTES = 512;

const unfinished = (path: string): string => `${path}.new`;

function noVolume(name: string): StoreError {
  return new StoreError('not_found', `there is no volume ${name}`, { remedy: 'neurovisor volume ls' });
}

/** @param holder undefined if another process has it, whose sandboxes are not in this store, as `neurovisor run` */
function inUse(name: string, holder: Use | undefined): StoreError {
  const who = holder === undefined ? 'a sandbox of another process' : `sandbox ${holder.sandbox}`;
  const how = holder?.readOnly === true ? 'reads' : 'has';
  return new StoreError('in_use', `${who} ${how} volume ${name}`, {
    remedy: 'remove that sandbox, or let all sandboxes only read the volume (:ro)',
  });
}
