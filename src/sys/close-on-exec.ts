/**
 * Keeps child processes from inheriting descriptors. Node marks its own, and inherited ones up to the first gap above
 * 15; libraries in the process may not mark theirs.
 */
import { readdirSync } from 'node:fs';
import { libc } from './libc.ts';

const cCloseRange = libc.func('int close_range(unsigned int first, unsigned int last, int flags)');
const cFcntl = libc.func('int fcntl(int fd, int command, int value)');

const FIRST = 3;
const LAST = 0xffff_ffff;
const CLOSE_RANGE_CLOEXEC = 4;
const F_GETFD = 1;
const F_SETFD = 2;
const FD_CLOEXEC = 1;

/**
 * Marks everything but stdin, stdout and stderr close-on-exec. Descriptors in `stdio` of `spawn` still reach the child,
 * which copies or unmarks them (libuv, src/unix/process.c).
 */
export function closeAllOnExec(): void {
  // Since Linux 5.11.
  if (cCloseRange(FIRST, LAST, CLOSE_RANGE_CLOEXEC) === 0) return;
  for (const fd of readdirSync('/proc/self/fd').map(Number)) {
    const flags: number = fd < FIRST ? -1 : cFcntl(fd, F_GETFD, 0);
    if (flags >= 0) cFcntl(fd, F_SETFD, flags | FD_CLOEXEC);
  }
}
