import { CodedError } from '../../base/errors.ts';

export type PackageErrorCode =
  | 'listen_failed'
  | 'closed'
  | 'index_invalid'
  /** There was no connection to the index, or it broke. */
  | 'upstream_unreachable'
  | 'upstream_timeout'
  | 'upstream_status'
  /** The answer exceeds the limit, or violates the protocol. */
  | 'upstream_invalid'
  | 'overloaded'
  | 'address_refused'
  /** The bytes differ from the digest that the index or the lock file names. */
  | 'digest_mismatch'
  | 'disk_full'
  /** The reader left, or its port was closed. */
  | 'canceled';

export class PackageError extends CodedError<PackageErrorCode> {
  readonly status: number | undefined;

  constructor(
    code: PackageErrorCode,
    message: string,
    options: { cause?: unknown; remedy?: string; status?: number } = {},
  ) {
    super(code, message, options);
    this.status = options.status;
  }
}
