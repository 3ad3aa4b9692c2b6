import { CodedError } from '../../base/errors.ts';

export type ImageErrorCode =
  /** Packages of the host are missing, and this user can't install them. */
  | 'host_packages_missing'
  | 'install_failed'
  /** A program that a build needs can't be started. */
  | 'tool_missing'
  | 'tool_failed'
  /** An input of a build (kernel source, configuration, lock file) is missing or invalid. */
  | 'source_invalid'
  /** A result is invalid: wrong digest, wrong configuration, missing file. */
  | 'result_invalid'
  /** An artifact changed after it was built. */
  | 'artifact_altered'
  /** Not enough free space; the message names the amount. */
  | 'disk_full'
  | 'cancelled';

export class ImageError extends CodedError<ImageErrorCode> {}
