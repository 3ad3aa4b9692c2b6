/**
 * One daemon per home: who holds this lock is it, from before it changes anything until nothing of it is
 * left. The socket can't tell: two that find it dead at once would each replace it.
 */
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { errorCode } from '../base/errors.ts';
import type { Home } from '../home.ts';
import { tryLockExclusive, tryLockShared } from '../sys/file.ts';

/**
 * The kernel gives the lock back when its owner dies, however it dies.
 * @returns how to give it back; null: another one has it
 */
export function tryLockDaemon(home: Pick<Home, 'dir'>): (() => void) | null {
  mkdirSync(home.dir, { recursive: true });
  // The file stays: removing it could split later callers over two files.
  const fd = openSync(lockPath(home), 'a', 0o600);
  if (tryLockExclusive(fd)) return () => closeSync(fd);
  closeSync(fd);
  return null;
}

/** Whether a daemon starts, runs or ends: seen by asking for the lock, which nobody keeps for that. */
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
