import { CodedError } from '../../base/errors.ts';

export type PackageErrorCode =
  /** Listening on a port's socket failed. */
  | 'listen_failed'
  /** The gateway is closed. */
  | 'closed'
  /** The host's configuration of an index is unusable. */
  | 'index_invalid'
  /** No connection to the index, or it broke. */
  | 'upstream_unreachable'
  /** The index was silent for too long. */
  | 'upstream_timeout'
  /** The index answered with an error status. */
  | 'upstream_status'
  /** The answer is larger than the limit, or not what the protocol says. */
  | 'upstream_invalid'
  /** Too much is under way already. */
  | 'overloaded'
  /** An address that the gateway does not connect to. */
  | 'address_refused'
  /** The bytes differ from the digest that the index or the lock file names. */
  | 'digest_mismatch'
  /** The host's disk has no room for a file. */
  | 'disk_full'
  /** The reader left, or its port was closed. */
  | 'canceled';

export class PackageError extends CodedError<PackageErrorCode> {
  /** Status of the index's answer, for `upstream_status`. */
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
