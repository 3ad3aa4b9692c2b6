import { CodedError } from '../../../base/errors.ts';

export type CassetteErrorCode =
  /** The file is not a cassette, or of another version. */
  | 'cassette_invalid'
  /** The file, or what was recorded for it, is larger than a cassette can be. */
  | 'cassette_too_large'
  /** The file is missing, or can't be read or written. */
  | 'cassette_failed'
  /** Requests had no answer in the cassette. */
  | 'not_in_cassette'
  /** A sandbox was to use it after its end. */
  | 'cassette_closed'
  /** A sandbox of a daemon can't use it. */
  | 'cassette_daemon';

export class CassetteError extends CodedError<CassetteErrorCode> {}
