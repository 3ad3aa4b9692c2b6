import { CodedError } from '../base/errors.ts';

export type JailErrorCode =
  /** A seccomp profile that can't be read, contradicts itself or names what is not there; the message says where. */
  | 'profile_invalid'
  /** A filter of more instructions than the kernel, or a file larger than Firecracker, takes. */
  | 'profile_too_large';

export class JailError extends CodedError<JailErrorCode> {}
