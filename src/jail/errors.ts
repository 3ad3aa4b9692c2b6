import { CodedError } from '../base/errors.ts';

export type JailErrorCode =
  /** A seccomp profile that can't be read, contradicts itself or names what is not there; the message says where. */
  | 'profile_invalid'
  /** A profile has no such thread, or several and none was named. */
  | 'thread_unknown'
  /** A filter of more instructions than the kernel takes. */
  | 'profile_too_large'
  /** A program whose calls were to be learnt could not be watched. */
  | 'strace_failed'
  /** This host can't jail a VMM, or not as it was asked for; the cause says what is missing. */
  | 'jail_unavailable'
  /** A VM whose id, limits or files no jail takes; the message names which. */
  | 'jail_plan_invalid'
  /** A directory of the jail is a link, or others may write there. */
  | 'jail_dir_unsafe'
  /** The VMM did not get into its jail; it was not started. */
  | 'jail_failed';

export class JailError extends CodedError<JailErrorCode> {}
