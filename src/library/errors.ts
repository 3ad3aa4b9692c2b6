/**
 * The error classes that the library rejects with. All are a CodedError, with `code` and, if a person can do something,
 * `remedy`.
 */
export { CodedError } from '../base/errors.ts';
export { ClientError, type ClientErrorCode } from '../client/errors.ts';
export { ConfigError } from '../config.ts';
export { HomeError } from '../home.ts';
export * from '../runtime/thrown.ts';
export { BusyError, SandboxError, type SandboxErrorCode } from '../sandbox/errors.ts';
export { CopyError, type CopyErrorCode } from '../transfer/transfer.ts';
export { ForwardError, type ForwardErrorCode } from './port-forward.ts';
