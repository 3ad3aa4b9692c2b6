/** State that the tables share, and the only code by which files leave the store. */
import type { Clock } from '../../base/clock.ts';
import type { BaseCopies } from './base-copies.ts';
import type { Database } from './database.ts';
import { asStoreError } from './errors.ts';
import type { Files, Swept } from './files.ts';
import type { FileLock } from './lock.ts';
import type { RecentBases } from './recent-bases.ts';
import type { Sealing } from './sealing.ts';
import type { WholeFiles } from './whole-files.ts';

export interface StoreParts {
  readonly dir: string;
  readonly db: Database;
  readonly files: Files;
  readonly lock: FileLock;
  readonly clock: Clock;
  readonly sealing: Sealing;
  readonly whole: WholeFiles;
  readonly copies: BaseCopies;
  /** Kept although no row names them. */
  readonly recent: RecentBases;
}

/** Removes files that no row names, and leftovers of dead processes. */
export async function sweep({ dir, db, files, lock, recent }: StoreParts): Promise<Swept> {
  try {
    const swept = await lock.run(async () => {
      // After a power failure, removed rows must not come back without their files.
      await db.sync();
      const rows = await db.read('read the needed files', (sql) =>
        sql.prepare('SELECT digest FROM snapshotFiles UNION SELECT digest FROM sandboxBases').all(),
      );
      const needed = new Set(rows.map((row) => row['digest']));
      return await files.sweep((digest) => needed.has(digest) || recent.has(digest));
    });
    await files.emptyTrash();
    return swept;
  } catch (error) {
    throw asStoreError(error, 'remove unneeded files', dir);
  }
}
