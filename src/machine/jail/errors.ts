import { CodedError } from '../../base/errors.ts';

export type JailErrorCode =
  /** A seccomp profile can't be read, is contradictory or has an unknown name; the message says where. */
  | 'profile_invalid'
  /** The profile has no such thread, or has several and none was named. */
  | 'thread_unknown'
  /** The filter has more instructions than the kernel accepts. */
  | 'profile_too_large'
  /** strace could not trace the program to learn from. */
  | 'strace_failed'
  /** This host can't jail a VMM as requested; the cause says what is missing. */
  | 'jail_unavailable'
  /** The VM's id, limits or files are invalid for a jail; the message names the field. */
  | 'jail_plan_invalid'
  /** A directory of the jail is a symbolic link or writable by others. */
  | 'jail_dir_unsafe'
  /** The VMM did not get into its jail; it was not started. */
  | 'jail_failed';

export class JailError extends CodedError<JailErrorCode> {}
