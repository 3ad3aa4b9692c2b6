import { CodedError } from '../../base/errors.ts';

export type GuestErrorCode =
  /** The guest did not dial or did not confirm in time. */
  | 'hello_timeout'
  /** One end refused the other: another protocol version, or an identity that could not be applied. */
  | 'hello_refused'
  /** The guest sent bytes that break the protocol; the connection was dropped. */
  | 'protocol_error'
  /** The connection to the guest ended before the answer was complete. */
  | 'connection_lost'
  /** The sandbox was paused or saved, which ends every connection; the program continues: attach to it. */
  | 'suspended'
  | 'timeout'
  /** The file, directory, program, user or process does not exist. */
  | 'not_found'
  | 'already_exists'
  | 'permission_denied'
  | 'disk_full'
  /** The agent refused a field of the request; the message names it. */
  | 'invalid_request'
  /** A request, file or answer is larger than its limit. */
  | 'too_large'
  /** The guest is out of memory, processes or connections for this request. */
  | 'exhausted'
  /** The operation failed in the guest for another reason, given in the message. */
  | 'guest_failed'
  | 'cancelled';

export class GuestError extends CodedError<GuestErrorCode> {}
