/**
 * The error classes that the library rejects with. All are a CodedError, with `code` and, if a person can do something,
 * `remedy`.
 */

export { ClientError, type ClientErrorCode } from '../../api/client/errors.ts';
export { TenantError } from '../../api/tenants/errors.ts';
export { CopyError, type CopyErrorCode } from '../../artifacts/transfer/transfer.ts';
export { ConfigError } from '../../base/config.ts';
export { CodedError } from '../../base/errors.ts';
export { HomeError } from '../../base/home.ts';
export * from '../../host/runtime/thrown.ts';
export { BusyError, SandboxError, type SandboxErrorCode } from '../../sandbox/contract/errors.ts';
export { ForwardError, type ForwardErrorCode } from './port-forward.ts';
