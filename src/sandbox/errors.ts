import { CodedError } from '../base/errors.ts';

export type SandboxErrorCode =
  /** A field of the spec is out of range; the message names it. */
  | 'spec_invalid'
  /** The VM or its agent did not become ready. */
  | 'start_failed'
  /** The request is not legal in the sandbox's present state. */
  | 'not_ready'
  /** The sandbox ended, or was never there. */
  | 'gone'
  /** A template could not be built; sandboxes still boot. */
  | 'template_failed'
  /** The caller cancelled. */
  | 'cancelled';

export class SandboxError extends CodedError<SandboxErrorCode> {}
