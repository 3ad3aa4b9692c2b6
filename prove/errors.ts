import { COMPILER_PACKAGES, installCommand } from '../src/artifacts/image/host-packages.ts';
import { CodedError } from '../src/base/errors.ts';

type ProofErrorCode =
  /** This user can't make namespaces or inspect processes. */
  | 'not_permitted'
  /** The world of the proof could not be set up, or its process ended early; the cause says why. */
  | 'no_world'
  /** The other endpoint can't be reached, or refuses what the suite needs. */
  | 'endpoint_failed'
  /** No positive control works at the other endpoint, so "blocked" would prove nothing. */
  | 'no_control'
  /** A package that the proof needs is not installed. */
  | 'client_missing'
  /** The canary can't listen, or does not answer. */
  | 'canary_failed';

/** Remedy if the programs of a proof can't be compiled. */
export const INSTALL_COMPILER = `Run: ${installCommand(COMPILER_PACKAGES)}`;

export class ProofError extends CodedError<ProofErrorCode> {}
