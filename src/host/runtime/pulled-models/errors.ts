import { OciError, type OciErrorCode } from '../../../artifacts/oci/errors.ts';
import { CodedError } from '../../../base/errors.ts';

export type ModelErrorCode =
  /** The text is no model reference, or the chosen name is not valid. */
  | 'reference_invalid'
  /** No such file, no such model in the registry, or no such pulled model. */
  | 'model_not_found'
  /** There are several models, one of which must be named. */
  | 'model_ambiguous'
  /** Damaged, incomplete, or different from its manifest. */
  | 'model_invalid'
  /** Valid, but not for the engine: another format, a projector, an adapter. */
  | 'model_unsupported'
  | 'model_too_large'
  | 'name_taken'
  | 'unauthorized'
  | 'rate_limited'
  | 'registry_failed'
  | 'disk_full'
  | 'tool_missing'
  | 'cancelled';

export class ModelError extends CodedError<ModelErrorCode> {}

const CODES: Readonly<Record<OciErrorCode, ModelErrorCode>> = {
  reference_invalid: 'reference_invalid',
  image_not_found: 'model_not_found',
  unauthorized: 'unauthorized',
  rate_limited: 'rate_limited',
  registry_failed: 'registry_failed',
  image_invalid: 'model_invalid',
  image_unsupported: 'model_unsupported',
  image_too_large: 'model_too_large',
  disk_full: 'disk_full',
  tool_missing: 'tool_missing',
  build_failed: 'registry_failed',
  cancelled: 'cancelled',
};

export function asModelError(error: unknown, remedy?: string): unknown {
  if (!(error instanceof OciError)) return error;
  return new ModelError(CODES[error.code], error.message, { cause: error.cause, remedy: remedy ?? error.remedy });
}
