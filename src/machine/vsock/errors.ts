import { CodedError } from '../../base/errors.ts';

type VsockErrorCode =
  /** A path, CID, port or limit of the device's specification can't be used. */
  | 'invalid_spec'
  /** Another process listens at one of the device's socket paths. */
  | 'path_in_use'
  /** A socket could not be created: directory missing, no permission. */
  | 'listen_failed'
  /** The device was detached, or closed by its VMM. */
  | 'device_closed'
  /** The host was closed, or a bug ended its worker thread. */
  | 'host_closed';

export class VsockError extends CodedError<VsockErrorCode> {}
