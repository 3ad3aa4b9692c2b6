/**
 * File calls that Node lacks: advisory locks, the search for data in a sparse file, sendfile. All are synchronous and
 * short; none keeps a pointer. The caller owns the descriptors.
 */
import { constants } from 'node:os';
import { check, ERRNO, lastErrno, libc, SyscallError } from './libc.ts';
import { allocateNative } from './memory.ts';

const cFlock = libc.func('int flock(int fd, int operation)');
const cLseek = libc.func('int64_t lseek(int fd, int64_t offset, int whence)');
const cSendfile = libc.func('intptr_t sendfile(int to, int from, uintptr_t offset, size_t bytes)');

// <sys/file.h> and <unistd.h> of Linux.
const LOCK_SH = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;
const LOCK_UN = 8;
const SEEK_SET = 0;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;

/**
 * flock(2), exclusive, without waiting. The lock belongs to the open file: it ends when the last copy of the descriptor
 * is closed, also by the death of the process.
 * @returns false if another open file holds the lock
 * @throws SyscallError for anything but "would block"
 */
export function tryLockExclusive(fd: number): boolean {
  return tryLock(fd, LOCK_EX);
}

/** flock(2), shared, without waiting. */
export function tryLockShared(fd: number): boolean {
  return tryLock(fd, LOCK_SH);
}

function tryLock(fd: number, kind: number): boolean {
  for (;;) {
    if (cFlock(fd, kind | LOCK_NB) === 0) return true;
    const errno = lastErrno();
    if (errno === ERRNO.EAGAIN) return false;
    if (errno !== ERRNO.EINTR) throw new SyscallError('flock', errno);
  }
}

/** Releases a lock while the file stays open. @throws SyscallError */
export function unlock(fd: number): void {
  check(cFlock(fd, LOCK_UN), 'flock LOCK_UN');
}

const offset = allocateNative(8);
const offsetValue = new BigInt64Array(offset.buffer);

/**
 * Copies inside the kernel from `position` of one file to the same position of another (sendfile(2)).
 * @returns bytes copied, 0 at the end
 * @throws SyscallError
 */
export function sendFile(from: number, to: number, position: number, bytes: number): number {
  check(Number(cLseek(to, position, SEEK_SET)), 'lseek');
  offsetValue[0] = BigInt(position);
  return check(Number(cSendfile(to, from, offset.address, bytes)), 'sendfile');
}

interface Extent {
  /** Byte position of the first byte of data. */
  readonly start: number;
  /** Byte position after the last one. */
  readonly end: number;
}

/**
 * The parts of a file that hold data, in order (lseek(2), SEEK_DATA). A filesystem without holes reports the whole
 * file. Moves the descriptor's position.
 * @param bytes where to stop, since another process may append. Default: the whole file
 * @throws SyscallError if the descriptor is not a regular file
 */
export function dataExtents(fd: number, bytes = Number.POSITIVE_INFINITY): Extent[] {
  const extents: Extent[] = [];
  let position = 0;
  while (position < bytes) {
    const start = Number(cLseek(fd, position, SEEK_DATA));
    // ENXIO: no data from here to the end.
    if (start < 0 && lastErrno() === constants.errno.ENXIO) return extents;
    check(start, 'lseek SEEK_DATA');
    const end = check(Number(cLseek(fd, start, SEEK_HOLE)), 'lseek SEEK_HOLE');
    if (start < bytes) extents.push({ start, end: Math.min(end, bytes) });
    position = end;
  }
  return extents;
}
