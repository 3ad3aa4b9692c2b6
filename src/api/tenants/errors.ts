import { CodedError } from '../../base/errors.ts';

export type TenantErrorCode =
  /** A name, label or number is out of range; the message names it. */
  | 'invalid'
  /** No key has this id, no tenant has this name, or there is no such log. */
  | 'not_found'
  /** The home already has the maximum number of keys. */
  | 'too_many'
  /** A file can't be read or written, or was changed by hand. */
  | 'file_failed';

export class TenantError extends CodedError<TenantErrorCode> {}
