import { CodedError } from '../../../base/errors.ts';

export type CassetteErrorCode =
  /** The file is not a cassette, or has another version. */
  | 'cassette_invalid'
  /** The file, or the recording for it, is larger than a cassette may be. */
  | 'cassette_too_large'
  | 'cassette_failed'
  | 'not_in_cassette'
  /** A sandbox tried to use the cassette after its end. */
  | 'cassette_closed'
  /** A daemon's sandbox can't use a cassette. */
  | 'cassette_daemon';

export class CassetteError extends CodedError<CassetteErrorCode> {}
