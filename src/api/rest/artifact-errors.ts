/** Errors of what a home keeps: images, models, what builds them. Recognized by name, since interfaces don't import them. */
import { CodedError } from '../../base/errors.ts';

const NAMES: ReadonlySet<string> = new Set(['OciError', 'ModelError', 'ImageError', 'EngineError']);

/** Statuses by code. */
const STATUSES: Readonly<Record<string, number>> = {
  reference_invalid: 400,
  image_not_found: 404,
  image_invalid: 422,
  image_unsupported: 422,
  image_too_large: 413,
  model_not_found: 404,
  model_ambiguous: 409,
  model_invalid: 422,
  model_unsupported: 422,
  model_too_large: 413,
  name_taken: 409,
  /** Of a registry. */
  unauthorized: 502,
  rate_limited: 503,
  registry_failed: 502,
  build_failed: 502,
  install_failed: 503,
  tool_missing: 503,
  tool_failed: 502,
  host_packages_missing: 503,
  source_invalid: 502,
  result_invalid: 502,
  artifact_altered: 502,
  disk_full: 507,
  cancelled: 499,
};

/** `undefined` for any other error. */
export function artifactStatus(error: unknown): number | undefined {
  if (!(error instanceof CodedError) || !NAMES.has(error.name)) return undefined;
  return Object.hasOwn(STATUSES, error.code) ? STATUSES[error.code] : undefined;
}
