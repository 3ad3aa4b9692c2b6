import { CodedError } from '../../base/errors.ts';

export type OciErrorCode =
  /** The text is not a reference to an image. */
  | 'reference_invalid'
  /** There is no such image: in the registry, the archive, the layout or the cache. */
  | 'image_not_found'
  /** The registry wants other credentials, or refuses these. */
  | 'unauthorized'
  /** The registry answers no more requests for now. */
  | 'rate_limited'
  /** The registry failed, or fell silent. */
  | 'registry_failed'
  /** The image contradicts itself: an invalid document, a wrong digest, a layer that is no archive. */
  | 'image_invalid'
  /** Valid, but not for this machine or not supported: another architecture, schema 1, foreign layers. */
  | 'image_unsupported'
  /** Larger than the limits. */
  | 'image_too_large'
  | 'disk_full'
  /** The program that fetches images can't be started. */
  | 'tool_missing'
  /** The VM that builds images failed. */
  | 'build_failed'
  | 'cancelled';

/** A failure to fetch, check or build an image. */
export class OciError extends CodedError<OciErrorCode> {}
