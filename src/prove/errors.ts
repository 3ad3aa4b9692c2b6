import { CodedError } from '../base/errors.ts';

type ProofErrorCode =
  /** Namespaces can't be made, or processes not be looked into, by this user. */
  | 'not_permitted'
  /** The world of the proof could not be made, or its process ended early; the cause says why. */
  | 'no_world'
  /** Of another endpoint: it can't be asked, or refuses what the suite needs. */
  | 'endpoint_failed'
  /** Of another endpoint: nothing that should work does, so that nothing said is blocked would mean anything. */
  | 'no_control'
  /** A package that the proof needs is not installed. */
  | 'client_missing'
  /** The canary can't listen, or can't be asked. */
  | 'canary_failed';

export class ProofError extends CodedError<ProofErrorCode> {}
