import { CodedError } from '../base/errors.ts';

type VsockErrorCode =
  /** A path, CID, port or limit of the device's specification can't be used. */
  | 'invalid_spec'
  /** Somebody already listens at one of the device's socket paths. */
  | 'path_in_use'
  /** A socket path could not be opened: directory missing, no permission. */
  | 'listen_failed'
  /** The device is gone: detached, or closed by its VMM. */
  | 'device_closed'
  /** The host was closed, or its worker thread ended by a bug. */
  | 'host_closed';

/** What was asked of a vsock device or of the host of all devices could not be done. */
export class VsockError extends CodedError<VsockErrorCode> {}
