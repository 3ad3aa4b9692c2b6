import { CodedError } from '../../base/errors.ts';

type VsockErrorCode =
  /** A path, CID, port or limit of the device's specification can't be used. */
  | 'invalid_spec'
  /** Another process listens at one of the device's socket paths. */
  | 'path_in_use'
  /** A socket could not be created: directory missing, no permission. */
  | 'listen_failed'
  /** The device is gone: detached, or closed by its VMM. */
  | 'device_closed'
  /** The host was closed, or its worker thread ended by a bug. */
  | 'host_closed';

/** An operation on a vsock device, or on the host of all devices, that failed. */
export class VsockError extends CodedError<VsockErrorCode> {}
