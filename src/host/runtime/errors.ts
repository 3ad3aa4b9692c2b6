import { CodedError } from '../../base/errors.ts';

export type RuntimeErrorCode =
  /** The configured model server does not respond as a model server. */
  | 'upstream_unreachable'
  /** The model server does not offer the requested model. */
  | 'model_unknown'
  /** No VMM on this machine can run a guest. */
  | 'no_accelerator'
  /** A jail is required, and this host cannot provide it. */
  | 'jail_unavailable'
  /** Saves are to be encrypted, and this VMM can't do without plain files of them. */
  | 'encryption_unavailable';

export class RuntimeError extends CodedError<RuntimeErrorCode> {}
