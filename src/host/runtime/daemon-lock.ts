/**
 * The lock that makes a process the only daemon of a home, held from before its first change until its cleanup is done.
 * The socket can't serve as the lock: two processes that find it dead at once would both replace it.
 */
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { errorCode } from '../../base/errors.ts';
import type { Home } from '../../base/home.ts';
import { tryLockExclusive, tryLockShared } from '../../sys/file.ts';

/**
 * Returns a function that releases the lock; `null` if another process holds it. The kernel releases it when the
 * process dies.
 */
export function tryLockDaemon(home: Pick<Home, 'dir'>): (() => void) | null {
  mkdirSync(home.dir, { recursive: true });
  // The file stays: removing it could split later callers over two files.
  const fd = openSync(lockPath(home), 'a', 0o600);
  if (tryLockExclusive(fd)) return () => closeSync(fd);
  closeSync(fd);
  return null;
}

/** True while a daemon starts, runs or ends. Takes a shared lock for a moment, which disturbs no other process. */
export function isDaemonLocked(home: Pick<Home, 'dir'>): boolean {
  let fd: number;
  try {
    fd = openSync(lockPath(home), 'r');
  } catch (error) {
    if (errorCode(error) === 'ENOENT' || errorCode(error) === 'EACCES') return false;
    throw error;
  }
  try {
    return !tryLockShared(fd);
  } finally {
    closeSync(fd);
  }
}

const lockPath = ({ dir }: Pick<Home, 'dir'>): string => join(dir, 'daemon.lock');
