import { CodedError } from '../base/errors.ts';

export type RuntimeErrorCode =
  /** The configured model server does not answer as one. */
  | 'upstream_unreachable'
  /** The model server does not offer the model that was asked for. */
  | 'model_unknown'
  /** No VMM on this machine can run a guest. */
  | 'no_accelerator'
  /** VMMs are to be jailed, and this host can't. */
  | 'jail_unavailable';

export class RuntimeError extends CodedError<RuntimeErrorCode> {}
