/** What the tables share, and the one way in which files leave the store. */
import type { Clock } from '../base/clock.ts';
import type { Database } from './database.ts';
import { asStoreError } from './errors.ts';
import type { Files, Swept } from './files.ts';
import type { FileLock } from './lock.ts';

export interface StoreParts {
  readonly dir: string;
  readonly db: Database;
  readonly files: Files;
  readonly lock: FileLock;
  readonly clock: Clock;
}

/** Removes the files that no row names, and what processes left that are dead. */
export async function sweep({ dir, db, files, lock }: StoreParts): Promise<Swept> {
  try {
    const swept = await lock.run(async () => {
      // Rows that were removed must not come back, after a loss of power, without their files.
      await db.sync();
      const rows = await db.read('look which files are needed', (sql) =>
        sql.prepare('SELECT DISTINCT digest FROM snapshotFiles').all(),
      );
      const needed = new Set(rows.map((row) => row['digest']));
      return await files.sweep((digest) => needed.has(digest));
    });
    await files.emptyTrash();
    return swept;
  } catch (error) {
    throw asStoreError(error, 'remove files that nobody needs', dir);
  }
}
