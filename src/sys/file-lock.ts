/** Waits for a lock that other processes hold briefly. */
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import { sleep } from '../base/clock.ts';
import { tryLockExclusive } from './file.ts';

const POLL_MS = 5;

/**
 * flock(2) of a file, which is created with its directory if missing.
 * @returns a descriptor, which the caller owns; closing it, also by the death of the process, releases the lock.
 * Undefined if another process still held the lock after `waitMsMax`
 * @throws a Node error (`EACCES`, `EROFS`, …) if the file can't be opened; SyscallError
 */
export async function lockFile(path: string, waitMsMax: number): Promise<number | undefined> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const fd = openSync(path, 'a', 0o600);
  try {
    for (let waitedMs = 0; ; waitedMs += POLL_MS) {
      if (tryLockExclusive(fd)) return fd;
      if (waitedMs >= waitMsMax) break;
      await sleep(POLL_MS);
    }
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  closeSync(fd);
  return undefined;
}
