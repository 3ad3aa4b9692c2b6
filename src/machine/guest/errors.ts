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
  /** The guest did not answer an operation in time. */
  | 'timeout'
  /** The file, directory, program, user or process does not exist. */
  | 'not_found'
  /** The name is taken. */
  | 'already_exists'
  /** The guest's user lacks the permission. */
  | 'permission_denied'
  /** The sandbox's disk is full. */
  | 'disk_full'
  /** The agent refused a field of the request; the message names it. */
  | 'invalid_request'
  /** A request, file or answer is larger than its limit. */
  | 'too_large'
  /** The guest is out of memory, processes or connections for this request. */
  | 'exhausted'
  /** The operation failed in the guest for another reason, given in the message. */
  | 'guest_failed'
  /** The caller cancelled. */
  | 'cancelled';

export class GuestError extends CodedError<GuestErrorCode> {}
