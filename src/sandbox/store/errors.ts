import { CodedError, errorCode } from '../../base/errors.ts';

export type StoreErrorCode =
  | 'not_found'
  | 'name_taken'
  /** A paused sandbox needs the snapshot. */
  | 'in_use'
  /** No space; nothing of the write was kept. */
  | 'disk_full'
  | 'snapshot_damaged'
  /** The file is not a database, or is corrupt. */
  | 'store_damaged'
  /** A newer version of NeuroVisor wrote the database. */
  | 'store_newer'
  /** Another process holds the store longer than `WAIT_MS_MAX`. */
  | 'store_busy'
  /** The directory can't be read or written: permissions, a failing disk. */
  | 'store_unavailable'
  | 'store_closed';

export class StoreError extends CodedError<StoreErrorCode> {}

/** Primary result codes (sqlite3.h); the low byte of an extended one. */
const SQLITE = { busy: 5, readOnly: 8, ioError: 10, corrupt: 11, full: 13, cantOpen: 14, notDb: 26 };
/** SQLITE_IOERR_SHMSIZE: the index of the WAL could not grow, because the disk is full. */
const SQLITE_IOERR_SHMSIZE = 4874;

/** Error codes of file calls that mean `store_unavailable`. */
const UNAVAILABLE = new Set(['EACCES', 'EPERM', 'EROFS', 'EIO', 'ENOTDIR']);

/** The extended result code of a `node:sqlite` error, or undefined. */
function sqliteCode(error: unknown): number | undefined {
  if (errorCode(error) !== 'ERR_SQLITE_ERROR' || !(error instanceof Error)) return undefined;
  return 'errcode' in error && typeof error.errcode === 'number' ? error.errcode : undefined;
}

export const isBusy = (error: unknown): boolean => ((sqliteCode(error) ?? 0) & 0xff) === SQLITE.busy;

/** True for a full disk or an exhausted quota, from a file call or from SQLite. */
export function isDiskFull(error: unknown): boolean {
  const code = sqliteCode(error);
  if (code === SQLITE.full || code === SQLITE_IOERR_SHMSIZE) return true;
  return errorCode(error) === 'ENOSPC' || errorCode(error) === 'EDQUOT';
}

/**
 * Converts an error for the caller. Errors without a code here (a violated CHECK, EMFILE) stay unchanged.
 * @param attempted the failed operation, with its object
 * @param dir directory of the store
 */
export function asStoreError(error: unknown, attempted: string, dir: string): unknown {
  const because = { cause: error };
  if (error instanceof StoreError) return error;
  if (isDiskFull(error)) {
    const remedy = `Free space on the filesystem of ${dir}, or remove unused snapshots.`;
    return new StoreError('disk_full', `${attempted}: no space left`, { ...because, remedy });
  }
  if (errorCode(error) === 'ERR_INVALID_STATE') {
    return new StoreError('store_closed', `${attempted}: the store is closed`, because);
  }
  if (UNAVAILABLE.has(errorCode(error) ?? '')) return unavailable(attempted, dir, error);
  switch ((sqliteCode(error) ?? 0) & 0xff) {
    case SQLITE.corrupt:
    case SQLITE.notDb:
      return damaged(attempted, dir, error);
    case SQLITE.readOnly:
    case SQLITE.ioError:
    case SQLITE.cantOpen:
      return unavailable(attempted, dir, error);
    default:
      return error;
  }
}

function unavailable(attempted: string, dir: string, cause: unknown): StoreError {
  const remedy = `Check that ${dir} belongs to you and is writable, and that its disk has no errors.`;
  return new StoreError('store_unavailable', attempted, { cause, remedy });
}

export function damaged(attempted: string, dir: string, cause?: unknown): StoreError {
  return new StoreError('store_damaged', `${attempted}: the database in ${dir} is damaged`, {
    ...(cause === undefined ? {} : { cause }),
    remedy: `Restore ${dir} from a backup, or move it away to start with an empty store.`,
  });
}
