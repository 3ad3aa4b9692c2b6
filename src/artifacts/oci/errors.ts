import { CodedError } from '../../base/errors.ts';

export type OciErrorCode =
  | 'reference_invalid'
  /** The image does not exist in the registry, archive, layout or cache. */
  | 'image_not_found'
  /** The registry requires other credentials, or refuses these. */
  | 'unauthorized'
  /** The registry temporarily refuses further requests. */
  | 'rate_limited'
  | 'registry_failed'
  /** The image is inconsistent: an invalid document, a wrong digest, a layer that is no archive. */
  | 'image_invalid'
  /** Valid, but not for this machine or not supported: another architecture, schema 1, foreign layers. */
  | 'image_unsupported'
  | 'image_too_large'
  | 'disk_full'
  /** The program that fetches images can't be started. */
  | 'tool_missing'
  | 'build_failed'
  | 'cancelled';

export class OciError extends CodedError<OciErrorCode> {}
