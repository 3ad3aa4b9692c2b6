/** Waiting for a lock that other processes hold for moments only. */
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import { sleep } from '../base/clock.ts';
import { tryLockExclusive } from './file.ts';

const POLL_MS = 5;

/**
 * flock(2) of a file that is made where it is missing, with its directory.
 * @returns a descriptor, which is the caller's: closing it, also by death, gives the lock back. Undefined
 * when somebody else still held it after `waitMsMax`.
 * @throws Error of Node (`EACCES`, `EROFS`, …) when the file can't be opened; SyscallError
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
