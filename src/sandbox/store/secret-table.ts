/**
 * Secrets that outlive sandboxes. Each value is sealed with the store's key and bound to its name, which includes the
 * tenant, so it can't be moved to another row.
 */
import { z } from 'zod';
import { SecretValue } from '../../base/request/secret-value.ts';
import { StoreError } from './errors.ts';
import type { StoreParts } from './parts.ts';
import { parseRow } from './row.ts';

const rowSchema = z.object({ name: z.string(), createdAtMs: z.number().int(), updatedAtMs: z.number().int() });
/** Its name is `TENANT/NAME`, or `NAME` for the operator's. */
type SecretRow = z.infer<typeof rowSchema>;

export class SecretTable {
  readonly #parts: Pick<StoreParts, 'db' | 'dir' | 'clock' | 'sealing'>;

  constructor(parts: Pick<StoreParts, 'db' | 'dir' | 'clock' | 'sealing'>) {
    this.#parts = parts;
  }

  /** @throws StoreError `name_taken` unless `replace`, `disk_full` */
  async set(name: string, value: SecretValue, replace: boolean): Promise<SecretRow> {
    const { db, clock, sealing } = this.#parts;
    const atMs = Math.round(clock.wall());
    const valueJson = sealing.seal(value.reveal(), context(name));
    await db.write(`store secret ${name}`, (sql) => {
      const made = sql
        .prepare(
          `INSERT INTO secrets (name, valueJson, createdAtMs, updatedAtMs) VALUES (:name, :valueJson, :atMs, :atMs)
           ON CONFLICT (name) DO UPDATE SET valueJson = :valueJson, updatedAtMs = :atMs WHERE :replace`,
        )
        .run({ name, valueJson, atMs, replace: Number(replace) });
      if (made.changes === 1) return;
      throw new StoreError('name_taken', `there is a secret ${name} already`, {
        remedy: 'choose another name, or give it a new value: neurovisor secret create NAME --replace',
      });
    });
    const row = (await this.list()).find((one) => one.name === name);
    if (row === undefined) throw noSecret(name);
    return row;
  }

  /** By name. */
  async list(): Promise<readonly SecretRow[]> {
    const { db, dir } = this.#parts;
    const rows = await db.read('list secrets', (sql) =>
      sql.prepare('SELECT name, createdAtMs, updatedAtMs FROM secrets ORDER BY name').all(),
    );
    return parseRow(dir, 'a secret', () => z.array(rowSchema).parse(rows));
  }

  /** @returns `null`: there is none, or it was altered or sealed with another key */
  async value(name: string): Promise<SecretValue | null> {
    const { db, sealing } = this.#parts;
    const row = await db.read(`read secret ${name}`, (sql) =>
      sql.prepare('SELECT valueJson FROM secrets WHERE name = ?').get(name),
    );
    const text = row === undefined ? null : sealing.unseal(String(row['valueJson']), context(name));
    return text === null ? null : new SecretValue(text);
  }

  /** @throws StoreError `not_found` */
  async remove(name: string): Promise<void> {
    const { db } = this.#parts;
    const removed = await db.write(`remove secret ${name}`, (sql) =>
      sql.prepare('DELETE FROM secrets WHERE name = ?').run(name),
    );
    if (removed.changes === 0) throw noSecret(name);
  }
}

/** Never that of a sandbox's request, which is an id. */
const context = (name: string): string => `secret ${name}`;

function noSecret(name: string): StoreError {
  return new StoreError('not_found', `there is no secret ${name}`, { remedy: 'neurovisor secret ls' });
}
