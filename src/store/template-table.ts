/** Which templates are used, so that the others can go. Their files are in the cache. */
import { z } from 'zod';
import type { StoreParts } from './parts.ts';
import { parseRow } from './row.ts';

export interface TemplateRow {
  readonly key: string;
  /** JSON of the caller's. */
  readonly specJson: string;
  readonly madeAtMs: number;
  readonly lastUsedAtMs: number;
  readonly uses: number;
}

export interface TemplateTable {
  /** One that is known keeps its uses. A new one counts as used when it was made. */
  put(row: Pick<TemplateRow, 'key' | 'specJson' | 'madeAtMs'>): Promise<void>;
  /** Counts a use, now. @returns false: unknown */
  touch(key: string): Promise<boolean>;
  /** Last used first. */
  list(): Promise<readonly TemplateRow[]>;
  /** @returns false: unknown */
  remove(key: string): Promise<boolean>;
}

const rowSchema = z.object({
  key: z.string(),
  specJson: z.string(),
  madeAtMs: z.number().int(),
  lastUsedAtMs: z.number().int(),
  uses: z.number().int(),
});

export function templateTable({ db, dir, clock }: StoreParts): TemplateTable {
  return {
    put: ({ key, specJson, madeAtMs }) =>
      db.write(`keep template ${key}`, (sql) => {
        sql
          .prepare(
            `INSERT INTO templates (key, specJson, madeAtMs, lastUsedAtMs, uses)
             VALUES (:key, :specJson, :madeAtMs, :madeAtMs, 0)
             ON CONFLICT (key) DO UPDATE SET specJson = excluded.specJson, madeAtMs = excluded.madeAtMs`,
          )
          .run({ key, specJson, madeAtMs });
      }),
    touch: (key) =>
      db.write(`count a use of template ${key}`, (sql) => {
        const use = sql.prepare(
          'UPDATE templates SET uses = uses + 1, lastUsedAtMs = :nowMs WHERE key = :key',
        );
        return use.run({ key, nowMs: Math.floor(clock.wall()) }).changes === 1;
      }),
    async list() {
      const rows = await db.read('list templates', (sql) =>
        sql.prepare('SELECT * FROM templates ORDER BY lastUsedAtMs DESC, key').all(),
      );
      return rows.map((row) => parseRow(dir, 'a template', () => rowSchema.parse(row)));
    },
    remove: (key) =>
      db.write(
        `remove template ${key}`,
        (sql) => sql.prepare('DELETE FROM templates WHERE key = ?').run(key).changes === 1,
      ),
  };
}
