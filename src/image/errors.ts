import { CodedError } from '../base/errors.ts';

export type ImageErrorCode =
  /** Packages of the host are missing and can't be installed by this user. */
  | 'host_packages_missing'
  /** A package tool of the host failed to install something. */
  | 'install_failed'
  /** A program that a build needs can't be started. */
  | 'tool_missing'
  /** A program that a build runs ended with an error. */
  | 'tool_failed'
  /** An input of a build (kernel source, configuration, lock file) is missing or not as expected. */
  | 'source_invalid'
  /** A result is not what it has to be: wrong digest, wrong configuration, missing file. */
  | 'result_invalid'
  /** An artifact was changed since it was made. */
  | 'artifact_altered'
  /** Not enough free space; the message names the amount. */
  | 'disk_full'
  /** The caller cancelled. */
  | 'cancelled';

export class ImageError extends CodedError<ImageErrorCode> {}
