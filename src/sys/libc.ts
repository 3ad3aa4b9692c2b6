/**
 * The C library by FFI. Every call here blocks its thread; none keeps a JavaScript callback. Failures of the kernel are
 * `SyscallError` (for set-up) or a negative errno as the result (for the paths that run per event, where an exception
 * would cost more than the call).
 */
import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';
import koffi from 'koffi';
import { CodedError } from '../base/errors.ts';

export const libc = koffi.load('libc.so.6');

/** `errno` values that callers of this folder compare with. */
export const ERRNO = {
  EINTR: constants.errno.EINTR,
  EAGAIN: constants.errno.EAGAIN,
  ENOENT: constants.errno.ENOENT,
  ECONNREFUSED: constants.errno.ECONNREFUSED,
  ESRCH: constants.errno.ESRCH,
} as const;

/** A failed system call; `code` is the name of errno (errno.h), for example `ENOENT`. */
export class SyscallError extends CodedError<string> {
  readonly errno: number;

  /** @param call the call and its subject, for example `bind <path>` */
  constructor(call: string, errno: number) {
    const name = getSystemErrorName(-errno);
    super(name, `${call}: ${name}`);
    this.errno = errno;
  }
}

/** `errno` of the last failed call of this thread. */
export function lastErrno(): number {
  return koffi.errno();
}

/** Returns a non-negative result. @throws SyscallError for a negative one. */
export function check(result: number, call: string): number {
  if (result < 0) throw new SyscallError(call, koffi.errno());
  return result;
}

/** The result if it is not negative, else −errno. */
export function orNegativeErrno(result: number): number {
  return result < 0 ? -koffi.errno() : result;
}
