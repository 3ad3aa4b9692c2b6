/** Maps errors to HTTP: one table from codes to statuses, and one body shape. */
import { CodedError, describeError } from '../../base/errors.ts';
import type { GuestErrorCode } from '../../machine/guest/errors.ts';
import { BusyError, SandboxError, type SandboxErrorCode } from '../../sandbox/contract/errors.ts';
import { TenantError, type TenantErrorCode } from '../tenants/errors.ts';
import { API_LIMITS } from './limits.ts';

export type ApiErrorCode =
  /** Malformed HTTP or JSON, or a missing, unknown or invalid field, which the message names. */
  | 'request_invalid'
  | 'unauthorized'
  /** A request of a web page, or with a foreign `Host`: refused whatever the key. */
  | 'forbidden'
  | 'route_not_found'
  /** The route has other methods, which the `Allow` header lists. */
  | 'method_not_allowed'
  | 'too_large'
  | 'request_timeout'
  | 'media_type'
  | 'upgrade_required'
  /** The `Idempotency-Key` was used before with another body. */
  | 'key_reused'
  /** The session is closed, so nothing can be created in it. */
  | 'session_closed'
  | 'internal'
  /** Another server listens at the address. */
  | 'already_running'
  /** The server can't listen at the address. */
  | 'listen_failed';

export class ApiError extends CodedError<ApiErrorCode> {}

export interface ErrorBody {
  readonly error: {
    readonly code: string;
    readonly message: string;
    readonly remedy: string | null;
    readonly retryAfterMs?: number | undefined;
  };
}

export interface ErrorAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: ErrorBody;
}

/** nginx's status for a client that has disconnected; never sent. */
const CLIENT_GONE = 499;

const API: Record<ApiErrorCode, number> = {
  request_invalid: 400,
  unauthorized: 401,
  forbidden: 403,
  route_not_found: 404,
  method_not_allowed: 405,
  too_large: 413,
  request_timeout: 408,
  media_type: 415,
  upgrade_required: 426,
  key_reused: 409,
  session_closed: 409,
  internal: 500,
  already_running: 500,
  listen_failed: 500,
};

const SANDBOX: Record<SandboxErrorCode, number> = {
  spec_invalid: 400,
  not_found: 404,
  not_ready: 409,
  name_taken: 409,
  snapshot_foreign: 409,
  forbidden: 403,
  gone: 410,
  busy: 429,
  cancelled: CLIENT_GONE,
  start_failed: 502,
  snapshot_failed: 502,
  disk_full: 507,
  snapshot_damaged: 409,
  in_use: 409,
  store_failed: 503,
  memory_unavailable: 409,
  network_unavailable: 503,
  port_unreachable: 502,
  secrets_missing: 409,
  template_failed: 502,
  image_failed: 502,
  volumes_unavailable: 409,
};

const TENANT: Record<TenantErrorCode, number> = { invalid: 400, not_found: 404, too_many: 409, file_failed: 503 };

/** Prefixed with `guest_` in answers, so that a missing file differs from a missing sandbox. */
const GUEST: Record<GuestErrorCode, number> = {
  invalid_request: 400,
  permission_denied: 403,
  not_found: 404,
  already_exists: 409,
  suspended: 409,
  too_large: 413,
  cancelled: CLIENT_GONE,
  hello_refused: 502,
  protocol_error: 502,
  connection_lost: 502,
  guest_failed: 502,
  exhausted: 503,
  timeout: 504,
  hello_timeout: 504,
  disk_full: 507,
};

/** Errors of what a home keeps: images, models, what builds them. Recognized by name, since interfaces don't import them. */
const ARTIFACT_ERRORS: ReadonlySet<string> = new Set([
  'OciError',
  'ModelError',
  'ImageError',
  'EngineError',
  'DockerfileError',
]);

const ARTIFACT: Readonly<Record<string, number>> = {
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
  dockerfile_invalid: 400,
  instruction_unsupported: 422,
  context_invalid: 400,
  secret_missing: 400,
  step_failed: 422,
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
function artifactStatus(error: unknown): number | undefined {
  if (!(error instanceof CodedError) || !ARTIFACT_ERRORS.has(error.name)) return undefined;
  return Object.hasOwn(ARTIFACT, error.code) ? ARTIFACT[error.code] : undefined;
}

/** Returns undefined for a bug, which is logged and answered without details. */
export function statusOf(error: unknown): number | undefined {
  if (error instanceof ApiError) return API[error.code];
  if (error instanceof SandboxError) return SANDBOX[error.code];
  if (error instanceof TenantError) return TENANT[error.code];
  if (isGuestError(error)) return GUEST[error.code];
  return artifactStatus(error);
}

export function errorAnswer(error: unknown): ErrorAnswer {
  const status = statusOf(error);
  if (status === undefined || !(error instanceof CodedError)) {
    const message = 'internal server error';
    const remedy = 'see the log of the daemon, and report the error';
    return { status: 500, headers: {}, body: { error: { code: 'internal', message, remedy } } };
  }
  const body = {
    code: answerCode(error),
    message: describeError(error).slice(0, API_LIMITS.messageCharactersMax),
    remedy: error.remedy ?? null,
  };
  if (!(error instanceof BusyError)) return { status, headers: {}, body: { error: body } };
  const { retryAfterMs } = error;
  const headers = { 'retry-after': String(retryAfterSeconds(error)) };
  return { status, headers, body: { error: { ...body, retryAfterMs } } };
}

/** A prefix tells a missing file or image from a missing sandbox, and a registry's refusal from that of this API. */
function answerCode(error: CodedError): string {
  if (isGuestError(error)) return `guest_${error.code.replace(/^guest_/, '')}`;
  return artifactStatus(error) === undefined ? error.code : `home_${error.code}`;
}

/** `Retry-After` has whole seconds. */
export const retryAfterSeconds = ({ retryAfterMs }: BusyError): number => Math.max(1, Math.ceil(retryAfterMs / 1000));

/** Recognized by name, since interfaces import only types of the guest. */
export function isGuestError(error: unknown): error is CodedError<GuestErrorCode> {
  return error instanceof CodedError && error.name === 'GuestError' && error.code in GUEST;
}
