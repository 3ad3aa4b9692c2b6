import { CodedError } from '../base/errors.ts';

export type ProofErrorCode =
  /** Namespaces can't be made, or processes not be looked into, by this user. */
  | 'not_permitted'
  /** The world of the proof could not be made, or its process ended early; the cause says why. */
  | 'no_world';

export class ProofError extends CodedError<ProofErrorCode> {}
